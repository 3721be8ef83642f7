"""`vllm-hosts drift` on this machine as a host: what differs in files, and who changed it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.projects import Project

#: A deploy of two files, with the record below a folder of the test.
_DEPLOY = """
from pyinfra.api.deploy import deploy

from vllm_hosts.facts import tree as facts
from vllm_hosts.operations import tree
from vllm_hosts.operations.record import deployed_noted
from vllm_hosts.host.files import File

for module in (facts, tree):
    for name in ("DEPLOYED", "COPIES", "STAMPS", "PREVIOUS"):
        if hasattr(module, name):
            setattr(module, name, {state!r} + "/" + name.lower())


@deploy("Mine")
def mine():
    tree.tree_synced(
        [
            File({folder!r} + "/conf", {conf!r}),
            File({folder!r} + "/secret", {secret!r}, mode=0o600, secret=True),
        ],
        name="The files are there",
    )
    deployed_noted(name="The host has a record")


mine()
"""
CONF = "".join(f"line {number}\n" for number in range(1, 9))
SECRET = "KEY=sk-internal-of-this-host-0123456789\n"


class Host:
    """A project whose deploy writes two files below a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        (folder / "project").mkdir()
        self.project = Project(folder / "project")
        self.project.environment = {"XDG_CACHE_HOME": str(folder / "cache"), "HOME": str(folder)}
        self.folder, self.state = folder / "host", folder / "state"
        self.folder.mkdir()
        host = "gpu_hosts = [('@local', {'ssh_hostname': '192.0.2.1'})]\n"
        self.project.write("inventory/prod.py", host)
        self.project.group(vllm={"directory": str(self.folder / "opt")})
        (self.folder / "opt").mkdir()
        self.settings()

    def settings(self, conf: str = CONF, secret: str = SECRET) -> None:
        (self.project.folder / "deploy.py").unlink()
        text = _DEPLOY.format(
            folder=str(self.folder),
            state=str(self.state),
            conf=conf.encode(),
            secret=secret.encode(),
        )
        self.project.write("deploy.py", text)

    def deploy(self, *options: str) -> str:
        done = self.project.run(
            "pyinfra", "-v", *(options or ("-y",)), "inventory/prod.py", "deploy.py"
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def drift(self) -> tuple[int, dict[str, Any]]:
        done = self.project.run("vllm-hosts", "drift", "inventory/prod.py", "--json")
        assert "Traceback" not in done.stdout, done.stdout
        found = json.loads(done.stdout[done.stdout.index("{") :])["@local"]
        assert found["unknown"] == [], done.stdout
        return done.returncode, {item["what"].rpartition("/")[2]: item for item in found["drifted"]}

    def text(self) -> str:
        return self.project.run("vllm-hosts", "drift", "inventory/prod.py").stdout


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def changed(output: str) -> int:
    return len(re.findall(r"\[@local\]\s+Success", output))


def test_a_second_deploy_and_a_drift_change_nothing(host: Host) -> None:
    assert changed(host.deploy()) == 1
    before = {path: path.stat().st_mtime_ns for path in host.state.rglob("*")}
    assert before
    assert changed(host.deploy()) == 0
    assert host.drift() == (0, {})
    assert {path: path.stat().st_mtime_ns for path in host.state.rglob("*")} == before
    assert "nothing differs" in host.text()


def test_a_host_that_was_changed_by_hand(host: Host) -> None:
    host.deploy()
    (host.folder / "conf").write_text(
        CONF.replace("line 5\n", "line five\nAPI_KEY=hunter2hunter2\n")
    )
    code, found = host.drift()
    assert code == 3
    assert found["conf"]["cause"] == "host"
    assert found["conf"]["how"] == "has different content"
    assert found["conf"]["diff"] == [
        "@@ -4,4 +4,3 @@",
        " line 4",
        "-line five",
        "-API_KEY=*MASKED*",
        "+line 5",
        " line 6",
    ]
    text = host.text()
    assert "the host was changed since the last deploy; the settings were not" in text
    assert "      -line five\n" in text
    assert "hunter2" not in text


def test_settings_that_changed(host: Host) -> None:
    host.deploy()
    host.settings(CONF + "line 9\n")
    code, found = host.drift()
    assert (code, found["conf"]["cause"]) == (3, "settings")
    assert found["conf"]["diff"] == ["@@ -8 +8,2 @@", " line 8", "+line 9"]
    assert "the settings or the toolkit changed since the last deploy" in host.text()


def test_both_changed(host: Host) -> None:
    host.deploy()
    host.settings(CONF + "line 9\n")
    (host.folder / "conf").write_text("line 0\n" + CONF)
    code, found = host.drift()
    assert (code, found["conf"]["cause"]) == (3, "both")
    assert {"-line 0", "+line 9"} <= set(found["conf"]["diff"])
    (host.folder / "conf").unlink()
    assert host.drift()[1]["conf"] | {"role": ""} == {
        "role": "",
        "what": f"{host.folder}/conf",
        "how": "is missing",
        "cause": "both",
        "diff": [],
    }


def test_of_a_secret_file_only_that_it_differs(host: Host) -> None:
    host.deploy()
    (host.folder / "secret").write_text("KEY=hunter2\n")
    _, found = host.drift()
    assert found["secret"]["cause"] == "host"
    assert found["secret"]["diff"] == ["its content is secret, and not shown"]
    assert "hunter2" not in host.text()
    host.deploy()
    host.settings(secret="KEY=hunter3\n")
    assert host.drift()[1]["secret"]["cause"] == "settings"
    assert "hunter3" not in host.text()


def test_a_host_of_an_earlier_version_cannot_tell_until_it_is_deployed(host: Host) -> None:
    for name, text in {"conf": CONF, "secret": SECRET}.items():
        (host.folder / name).write_text(text)
    os.chmod(host.folder / "secret", 0o600)
    assert host.drift() == (0, {})
    host.settings(CONF + "line 9\n")
    code, found = host.drift()
    assert (code, found["conf"]["cause"]) == (3, "unknown")
    assert found["conf"]["diff"], "the difference is shown all the same"
    assert host.text().count("cannot be determined for the rest: the host has no record") == 1
    # Nothing to write but the record, once.
    host.settings()
    assert changed(host.deploy()) == 1
    assert (host.folder / "conf").read_text() == CONF
    assert changed(host.deploy()) == 0
    digest = hashlib.sha256(CONF.encode()).hexdigest()
    assert f"{digest}  {host.folder}/conf" in (host.state / "deployed").read_text()
    (host.folder / "conf").write_text("mine\n")
    assert host.drift()[1]["conf"]["cause"] == "host"


def test_a_dry_run_makes_no_record(host: Host) -> None:
    (host.folder / "conf").write_text(CONF)
    host.deploy("--dry")
    assert not host.state.exists()


def test_keys_of_the_host_are_masked_by_their_value(host: Host) -> None:
    """In whatever line they were pasted."""
    host.deploy()
    key = "correct.horse.battery"
    (host.folder / "opt/.env").write_text(f"VLLM_API_KEY_ONE={key}\n")
    (host.folder / "conf").write_text(CONF + f"see {key} for it\n")
    _, found = host.drift()
    assert found["conf"]["diff"][-1] == "-see *MASKED* for it"


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"\x7fELF\x00\x00\xff", "its content is not shown: not text, or more than 256 KiB"),
        (b"nul \x00 in text\n", "its content is not shown: not text, or more than 256 KiB"),
        (b"x" * 300_000, "its content is not shown: not text, or more than 256 KiB"),
        (CONF.replace("\n", "\r\n").encode(), "only the line endings differ"),
    ],
)
def test_what_is_no_text_is_not_shown(host: Host, content: bytes, shown: str) -> None:
    host.deploy()
    (host.folder / "conf").write_bytes(content)
    assert host.drift()[1]["conf"]["diff"] == [shown]


def test_a_long_difference_is_cut_and_a_terminal_is_not_obeyed(host: Host) -> None:
    host.deploy()
    bad = "".join(
        f"\x1b[2J{number} \x1b]0;title\x07\u202eevil {'y' * 500}\n" for number in range(200)
    )
    (host.folder / "conf").write_text(CONF + bad)
    lines = host.drift()[1]["conf"]["diff"]
    assert len(lines) == 61
    assert lines[-1].startswith("... and ")
    assert all(len(line) < 220 for line in lines)
    text = host.text()
    assert "\x1b[2J" not in text
    assert "title" not in text
    assert "\u202e" not in text


def test_a_link_is_not_followed(host: Host) -> None:
    host.deploy()
    (host.folder / "conf").unlink()
    (host.folder / "other").write_text("other's text\n")
    (host.folder / "conf").symlink_to(host.folder / "other")
    item = host.drift()[1]["conf"]
    assert (item["how"], item["cause"], item["diff"]) == ("is not a regular file", "host", [])
