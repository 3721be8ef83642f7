"""What is kept of a run for the next one: names of facts and plain words, believed by nobody."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.recording import InLine, deploy_py
from vllm_hosts.facts import ahead, asked
from vllm_hosts.facts.asked import Question, read, write

OS, PACKAGES = Question("OsRelease"), Question("AptPackages", '{"names":["nginx","libc6"]}')
LISTS: asked.Lists = {"deploy.py": {"gpu1": (OS, PACKAGES, OS), "gpu2": (PACKAGES,)}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "asked.json"


def test_it_comes_back_as_it_was_and_is_private(file: Path) -> None:
    write(file, LISTS)
    assert read(file) == LISTS
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_hosts_have_in_common_is_kept_once(file: Path) -> None:
    write(file, {"deploy.py": {f"gpu{number}": (OS, PACKAGES) for number in range(1000)}})
    assert file.read_text().count("AptPackages") == 1
    assert len(file.read_text()) < 25_000


def test_nothing_is_made_where_no_store_is(tmp_path: Path) -> None:
    write(tmp_path / "not/there/asked.json", LISTS)
    assert list(tmp_path.iterdir()) == []


class TestOthers:
    """Somebody who can write the file, or one in its place."""

    def test_a_file_that_others_can_write_is_refused(self, file: Path) -> None:
        write(file, LISTS)
        for mode in (0o620, 0o602):
            file.chmod(mode)
            with pytest.raises(PermissionError):
                read(file)

    def test_a_folder_that_others_can_write_is_refused(self, file: Path) -> None:
        write(file, LISTS)
        file.parent.chmod(0o777)
        with pytest.raises(PermissionError):
            read(file)

    def test_somebody_else_s_file_is_refused(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(file, LISTS)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(PermissionError):
            read(file)

    def test_a_link_leads_nowhere(self, file: Path) -> None:
        other = file.with_name("other.json")
        write(other, LISTS)
        file.symlink_to(other)
        assert read(file) == {}

    def test_a_fifo_holds_nobody(self, file: Path) -> None:
        os.mkfifo(file, 0o600)
        assert read(file) == {}

    def test_a_run_says_that_it_is_not_used(
        self, in_line: InLine, caplog: pytest.LogCaptureFixture
    ) -> None:
        recorder = in_line()
        kept = recorder.inventory.with_name("asked.json")
        recorder.run(deploy_py)
        kept.chmod(0o666)
        done = recorder.run(deploy_py)
        assert not [one for one in done.executions if "facts" in one]
        assert f"{kept} is not used, since others could have written it" in caplog.text
        # And makes another.
        assert kept.stat().st_mode & 0o777 == 0o600
        assert [one for one in recorder.run(deploy_py).executions if "facts" in one]

    @pytest.mark.parametrize(
        "word",
        ["$(id)", "`id`", "a b", "a;b", "a|b", "a\nb", "'", '"', "a>b", "*", "?", "~root", "-rf",
         "--files0-from=/etc/shadow", "\\", "", "a&b", "(a)", "a#b\n", "é", "x" * 1001],
    )  # fmt: skip
    def test_no_argument_is_more_than_a_word(self, file: Path, word: str) -> None:
        """Neither when it is written nor when it is read: facts put their arguments into shell."""
        assert Question.of("AptPackages", {"names": ["nginx", word]}) is None
        assert Question.of("AptPackages", {"names": {"a": 1}}) is None
        table = [["AptPackages", {"names": [word]}], ["OsRelease", {}]]
        write(file, LISTS)
        content = {"version": 1, "asked": table, "hosts": {"deploy.py": {"gpu1": [0, 1]}}}
        file.write_text(json.dumps(content))
        assert read(file) == {"deploy.py": {"gpu1": (OS,)}}

    def test_only_facts_that_may_be_asked_ahead_become_commands(self) -> None:
        """And only as the present code asks them."""
        for name in ("AgentLog", "ComposeProject", "FactBase", "Command", "os.system", ""):
            assert ahead._known(Question(name, '{"agent": "a"}')) is None
        assert ahead._known(Question("AptPackages", '{"another": "argument"}')) is None
        assert ahead._known(Question("AptPackages", '{"names": 7}')) is None
        known = ahead._known(PACKAGES)
        assert known is not None and "dpkg-query" in known.command and "libc6" in known.command


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
_ENTRY = st.tuples(st.sampled_from(["OsRelease", "AptPackages", "TreeState", "x"]), _JSON)
_SHAPED = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "asked": st.lists(_ENTRY | _JSON, max_size=4),
        "hosts": st.dictionaries(
            st.just("deploy.py"),
            st.dictionaries(st.text(max_size=4), st.lists(st.integers(-3, 5) | _JSON)) | _JSON,
        ),
    }
)


@given(content=_SHAPED | _JSON | st.binary(max_size=100))
@settings(deadline=None)
def test_a_damaged_file_is_none(content: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever it says: nothing is raised, and what is left has plain words only."""
    file = tmp_path_factory.getbasetemp() / "damaged.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    file.chmod(0o600)
    for hosts in read(file).values():
        for looks in hosts.values():
            for one in looks:
                assert Question.of(one.fact, one.given()) == one
                ahead._known(one)


def test_no_secret_is_kept(in_line: InLine) -> None:
    """Nor anything that has one, such as a proxy of a model's download."""
    agent = {"name": "qwen", "port": 8001, "gpus": [0], "model": "Qwen/Qwen3-8B"}
    proxy = "http://sesame.example:3128"
    recorder = in_line(agents=[{**agent, "env": {"HTTPS_PROXY": proxy}}])
    recorder.run(deploy_py)
    text = recorder.inventory.with_name("asked.json").read_text()
    assert "HubModels" in text and "sesame" not in text
    keys = json.loads((recorder.inventory.parent / ".vllm-hosts/prod/keys.json").read_text())

    def strings(value: Any) -> list[str]:
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            return [one for item in inner for one in strings(item)]
        return [value] if isinstance(value, str) else []

    secrets = [one for one in strings(keys) if len(one) > 15]
    assert len(secrets) > 2
    assert [one for one in secrets if one in text] == []
