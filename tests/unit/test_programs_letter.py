"""What stat, dpkg and systemctl are asked, and what is read of their answers."""

from __future__ import annotations

import pytest

from vllm_hosts.host import dpkg, stat, systemctl
from vllm_hosts.host.files import Found
from vllm_hosts.host.systemctl import Active


class TestStat:
    def test_what_is_asked(self) -> None:
        assert stat.query("/a '/b c'") == (
            "stat -c '%F|%a|%U|%u|%G|%g|%n' -- /a '/b c' 2>/dev/null"
        )

    @pytest.mark.parametrize(
        ("said", "kind"),
        [("regular file", "f"), ("regular empty file", "f"), ("directory", "d"),
         ("symbolic link", "l"), ("socket", "o"), ("fifo", "o")],
    )  # fmt: skip
    def test_what_is_there(self, said: str, kind: str) -> None:
        found = Found(kind, 0o2755, ("alice", "1000"), ("adm", "4"))
        assert stat.read([f"{said}|2755|alice|1000|adm|4|/a|b"]) == {"/a|b": found}

    def test_a_line_that_is_none_of_its(self) -> None:
        for line in ("stat: no such file", "directory|9|a|1|b|2|/x"):
            with pytest.raises(ValueError):
                stat.read([line])


class TestDpkg:
    def test_what_is_asked(self) -> None:
        form = "${db:Status-Abbrev}|${Package}|${Version}\\n"
        assert dpkg.query() == f"dpkg-query -W -f '{form}'"
        assert dpkg.query(["a", "b"], mark="= ") == f"dpkg-query -W -f '= {form}' a b 2>/dev/null"

    def test_what_is_installed(self) -> None:
        lines = ["ii |nginx|1.2", "hi |nvidia|590", "rc |old|1", "iU |half|1", "un |never|"]
        assert dpkg.installed(lines) == {"nginx": "1.2", "nvidia": "590"}
        with pytest.raises(ValueError):
            dpkg.installed(["ii nginx"])


class TestSystemctl:
    def test_what_is_asked(self) -> None:
        assert systemctl.IS_ACTIVE == "systemctl is-active"
        assert systemctl.IS_ENABLED == "systemctl is-enabled"
        assert systemctl.MAIN_PID == "systemctl show -p MainPID --value"
        assert systemctl.query("x.service") == (
            "echo '== active'; systemctl is-active x.service 2>/dev/null\n"
            "echo '== enabled'; systemctl is-enabled x.service 2>/dev/null"
        )

    @pytest.mark.parametrize(
        ("said", "runs"),
        [
            ("active", True), ("reloading", True), ("refreshing", True), ("activating", False),
            ("deactivating", False), ("inactive", False), ("failed", False),
            ("maintenance", False), ("unknown", False),
        ],
    )  # fmt: skip
    def test_what_a_unit_does(self, said: str, runs: bool) -> None:
        found = systemctl.active([said])
        assert (found.value, found.runs) == (said, runs)

    def test_saying_nothing_is_not_running(self) -> None:
        assert systemctl.active([]) is Active.SILENT and not Active.SILENT.runs
        assert systemctl.enabled([]) is False

    @pytest.mark.parametrize(
        "said",
        [
            "enabled-runtime", "linked", "linked-runtime", "masked", "masked-runtime", "alias",
            "static", "indirect", "disabled", "generated", "transient", "bad", "not-found",
        ],
    )  # fmt: skip
    def test_what_does_not_start_at_boot(self, said: str) -> None:
        assert systemctl.enabled([said]) is False
        assert systemctl.enabled(["enabled"]) is True

    def test_what_is_no_word_of_systemd_s(self) -> None:
        for read in (systemctl.active, systemctl.enabled):
            for lines in (["perhaps"], ["x" * 900], ["active", "enabled", "failed", "bad"]):
                with pytest.raises(ValueError, match="^systemctl reports '") as caught:
                    read(lines)
                assert len(str(caught.value)) <= len("systemctl reports ''") + 200
        with pytest.raises(ValueError, match="^systemctl reports 'a b'$"):
            systemctl.active(["a", "b"])
        with pytest.raises(ValueError) as caught:
            systemctl.active(["x" * 900])
        assert str(caught.value) == f"systemctl reports {'x' * 200!r}"
