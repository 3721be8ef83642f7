"""nginx is asked about the edge's configuration before images and models are fetched."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

import vllm_hosts.roles.nginx as role
from tests.unit.projects import ROOT
from tests.unit.real_nginx import program
from tests.unit.samples import settings
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END
from vllm_hosts.facts.nginx import EdgeFound, EdgeState, Nginx
from vllm_hosts.facts.tree import TreeFound
from vllm_hosts.host import paths
from vllm_hosts.host.files import NOTHING, Absent, Entry, File, Folder, Found
from vllm_hosts.host.nginx import TRIAL_FOLDER, MainConf
from vllm_hosts.host.nginx_sites import Sites
from vllm_hosts.keys import HostKeys
from vllm_hosts.operations import edge_trial as operation
from vllm_hosts.operations.differences import listening
from vllm_hosts.operations.edge_trial import sentences, trial
from vllm_hosts.roles.nginx.plan import NginxVersion, edge_entries, edge_paths, parse_version
from vllm_hosts.roles.nginx.trial import trial_entries

SECRET = "INTERNAL-KEY-THAT-NOBODY-SEES"
KEYS = HostKeys(internal=SecretStr(SECRET), clients=(), hf_token=None)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces need root")


def entries(folder: Path, **more: object) -> list[Entry]:
    """What nginx would be asked about, on a host whose /etc/nginx is this folder."""
    nginx = program("nginx")
    said = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=True).stderr
    # This machine's nginx may have no module for Lua.
    without = {"count_tokens": False, "cache_isolation": "off"}
    host = settings(**{"edge": {"https_port": 8443, "http_port": 8080} | without, **more})
    found = trial_entries(host, edge_entries(host, KEYS, parse_version(said)))
    moved: list[Entry] = []
    for entry in found:
        path = entry.path.replace("/etc/nginx", str(folder))
        if isinstance(entry, File):
            content = entry.content.replace(b"/etc/nginx", str(folder).encode())
            moved.append(replace(entry, path=path, content=content))
        else:
            moved.append(replace(entry, path=path))
    return moved


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distribution's /etc/nginx, as far as this is concerned."""
    # Its package makes /var/lib/nginx, which this machine need not have.
    own = tmp_path_factory.mktemp("var")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {own}/{kind};" for kind in kinds)
    found = tmp_path / "nginx"
    for name in ("conf.d", "sites-available", "sites-enabled", "vllm-hosts"):
        (found / name).mkdir(parents=True)
    (found / "nginx.conf").write_text(
        f"user root; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
        f"events {{ worker_connections 768; }}\nhttp {{ access_log off; {temporary}\n"
        f"include {found}/conf.d/*.conf; include {found}/sites-enabled/*; }}\n"
    )
    site = found / "sites-available/default"
    site.write_text("server { listen 8080 default_server; return 200; }\n")
    (found / "sites-enabled/default").symlink_to(site)
    return found


#: What others leave in this machine's /run is nothing to do with it; names of what it leaves itself
#: go to a file.
_OWN_RUN = """mount -t tmpfs run /run && mkdir /run/mount || exit
sh -c "$2"; code=$?; ls -A /run >"$1"; exit $code"""


def left(folder: Path) -> str:
    return str(folder.parent / "left")


def ask(folder: Path, asked: list[Entry]) -> subprocess.CompletedProcess[str]:
    """In a network of its own, as nginx opens its ports even where it is only asked; and a /run."""
    command = trial(asked, folder=str(folder))
    assert SECRET not in command.get_raw_value()
    programs = folder.parent / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "nginx").unlink(missing_ok=True)
    (programs / "nginx").symlink_to(program("nginx"))
    lines = command.connector_arguments["_stdin"]
    assert isinstance(lines, list)
    return subprocess.run(
        ["unshare", "-n", "-m", "sh", "-c", _OWN_RUN, "sh", left(folder), command.get_raw_value()],
        input="".join(f"{line}\n" for line in lines),
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )


def everything(folder: Path) -> dict[str, object]:
    return {
        str(path): (path.stat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in (folder.parent, *folder.rglob("*"))
    }


def test_what_nginx_accepts_leaves_nothing_behind(folder: Path) -> None:
    before = everything(folder)
    done = ask(folder, entries(folder))
    (folder.parent / "bin/nginx").unlink()
    (folder.parent / "bin").rmdir()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert everything(folder) == before
    # That one is mount's own.
    assert Path(left(folder)).read_text() == "mount\n"
    assert str(folder) not in Path("/proc/self/mounts").read_text()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("conf.d/mine.conf", "nonsense on;\n", 'unknown directive "nonsense" in {folder}/conf.d'),
        ("sites-enabled/mine", "server { listen 8443 default_server; }", "duplicate default"),
        ("conf.d/zone.conf", "limit_req_zone a zone=vllm_hosts_health:1m rate=1r/s;", "already"),
        ("conf.d/hash.conf", "map_hash_max_size 1;\n", '"map_hash_max_size" directive is dupl'),
        ("sites-enabled/tls", "server { listen 8444 ssl; }", "ssl_certificate"),
    ],
)
def test_what_nginx_refuses_is_said_in_its_own_words(
    folder: Path, name: str, text: str, words: str
) -> None:
    (folder / name).write_text(text)
    before = everything(folder)
    done = ask(folder, entries(folder))
    assert done.returncode == 1
    assert done.stdout == ""
    said = sentences(done.stderr.splitlines())
    assert said.startswith("nginx: [emerg] ") and said.count("[emerg]") == 1
    assert words.format(folder=folder) in said and SECRET not in done.stderr
    assert "test failed" not in said
    assert {path: before[path] for path in before if "bin" not in path}.items() <= everything(
        folder
    ).items()


def test_the_user_s_own_certificate_is_the_one_that_is_judged(folder: Path, tmp_path: Path) -> None:
    for name in ("certificate", "key"):
        (tmp_path / name).write_text("-----BEGIN NONSENSE-----\n")
    files = {"mode": "files", "certificate": "certificate", "key": "key"}
    files = {
        name: str(tmp_path / value) if name != "mode" else value for name, value in files.items()
    }
    done = ask(folder, entries(folder, tls=files))
    assert done.returncode == 1
    assert "cannot load certificate" in done.stderr


@pytest.mark.parametrize(
    ("says", "code"),
    [
        ("unshare: unshare failed: Operation not permitted", 1),
        ("sh: 1: unshare: not found", 127),
        ("mount: /run/x/was: permission denied.", 77),
    ],
)
def test_a_host_that_cannot_be_asked_so_is_told_apart(folder: Path, says: str, code: int) -> None:
    (folder.parent / "bin").mkdir()
    fake = folder.parent / "bin/unshare"
    fake.write_text(f"#!/bin/sh\necho '{says}' >&2; exit {code}\n")
    fake.chmod(0o755)
    command = trial(entries(folder), folder=str(folder))
    lines = command.connector_arguments["_stdin"]
    assert isinstance(lines, list)
    done = subprocess.run(
        ["sh", "-c", command.get_raw_value()],
        input="".join(f"{line}\n" for line in lines),
        env={**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "vllm-hosts-unasked\n")
    assert done.stderr == f"{says}\n"


def test_certificate_and_logs_are_the_trial_s_own(tmp_path: Path) -> None:
    for entry in entries(Path("/etc/nginx")):
        assert entry.path.startswith("/etc/nginx/")
        if isinstance(entry, File):
            text = entry.content.decode()
            assert paths.TLS_FOLDER not in text and paths.EDGE_LOGS not in text
            if "access_log /" in text or "ssl_certificate " in text:
                assert TRIAL_FOLDER in text


def test_the_paths_are_known_without_the_files() -> None:
    for edge in ({}, {"cors_origins": ["https://app.example.com"]}):
        host = settings(edge=edge)
        made = edge_entries(host, KEYS, NginxVersion((1, 26, 3), (3, 5, 0)))
        assert edge_paths(host) == [entry.path for entry in made]


def test_nginx_is_asked_before_what_takes_long() -> None:
    lines = (ROOT / "deploy.py").read_text().splitlines()
    steps = [line.strip().partition("(")[0] for line in lines if "(" in line]
    # The image is begun before, and nobody waits for it so long.
    for later in ("vllm_image", "nvidia_container_toolkit", "models", "vllm", "nginx"):
        assert steps.index("nginx_asked") < steps.index(later)


def test_one_command_for_four_looks() -> None:
    printed = [
        *("== version", "nginx version: nginx/1.26.3", "== active", "active"),
        *("== enabled", "enabled", "== ipv6", "present", "== names", "", END, ""),
        *(
            "== stat",
            "regular file|644|root|0|root|0|/etc/nginx/nginx.conf",
            "== content",
            "eA==",
            "",
            END,
        ),
        *("== welcome", "own", "== pages", "== listens", "", END),
        *("== stat", "regular file|644|root|0|root|0|/etc/nginx/a", "== sha256"),
        *(
            f"{'0' * 64}  /etc/nginx/a",
            "== stamp",
            "",
            "== deployed",
            "== asked",
            "/etc/nginx/a",
            "",
            END,
        ),
    ]
    found = EdgeState().process(printed)
    assert found.nginx.active and found.nginx.version_text.endswith("1.26.3")
    assert found.main == MainConf("f", b"x", 0o644, "root", "root")
    assert found.sites.welcome == "own"
    assert found.files.paths["/etc/nginx/a"].sha256 == "0" * 64


VERSION = "nginx version: nginx/1.26.3\nbuilt with OpenSSL 3.5.0\n"
MAIN = MainConf(
    "f",
    b"include /etc/nginx/modules-enabled/*.conf;\nevents { worker_connections 768; }\n",
    0o644,
    "root",
    "root",
)


def asked_about(monkeypatch: pytest.MonkeyPatch, version: str, *, as_planned: bool) -> list[Entry]:
    """What a host that has this is asked about."""
    current: Any = SimpleNamespace(settings=settings(), keys=KEYS)
    nginx = Nginx(version, active=False, enabled=True)
    paths_asked: list[str] = []

    def answer(_: object, paths: list[str]) -> EdgeFound:
        paths_asked.extend(paths)
        there = dict.fromkeys(paths, NOTHING)
        if as_planned:
            for entry in role._entries(current, nginx, MAIN, Sites()):
                kind = {File: "f", Folder: "d", Absent: "-"}[type(entry)]
                there[entry.path] = Found(
                    kind,
                    getattr(entry, "mode", 0),
                    ("root", "0"),
                    ("root", "0"),
                    entry.sha256 if isinstance(entry, File) else "",
                )
        return EdgeFound(nginx, MAIN if version else None, Sites(), TreeFound(there, ""))

    monkeypatch.setattr(role, "look", answer)
    found = list(role._trial(current))
    assert {entry.path for entry in found} <= {
        *paths_asked,
        *(f"{TRIAL_FOLDER}/{x}.pem" for x in ("certificate", "key")),
    }
    return found


def test_a_host_is_asked_where_something_would_change(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_about(monkeypatch, "", as_planned=False) == [], "nginx is not there yet"
    assert asked_about(monkeypatch, VERSION, as_planned=True) == [], "nothing would change"
    found = {entry.path for entry in asked_about(monkeypatch, VERSION, as_planned=False)}
    assert {"/etc/nginx/nginx.conf", "/etc/nginx/conf.d/vllm-hosts.conf"} <= found
    assert f"{TRIAL_FOLDER}/key.pem" in found


@pytest.mark.parametrize(
    ("accepted", "stdout", "said"),
    [
        (True, "", None),
        (False, "", "nginx would reject the edge's configuration: nginx: [emerg] no; change"),
        (False, "vllm-hosts-unasked", "note: nginx's configuration can be tested only once"),
    ],
)
def test_what_becomes_of_the_answer(
    monkeypatch: pytest.MonkeyPatch, accepted: bool, stdout: str, said: str | None
) -> None:
    output = SimpleNamespace(stderr_lines=["nginx: [emerg] no"], stdout=stdout)
    ran: list[object] = []

    def shell(command: object, **_: object) -> tuple[bool, SimpleNamespace]:
        ran.append(command)
        return accepted, output

    heard: list[str] = []
    for name in ("ctx_state", "ctx_host"):
        value = SimpleNamespace(get=lambda: SimpleNamespace(run_shell_command=shell))
        monkeypatch.setattr(operation, name, value)
    monkeypatch.setattr(operation, "connector_options", lambda state, host: {})
    monkeypatch.setattr(operation, "say", lambda sentences: heard.extend(sentences))
    commands = operation.configuration_accepted._inner.__wrapped__  # type: ignore[attr-defined]
    plan = lambda: [File("/etc/nginx/x", b"")]  # noqa: E731
    try:
        assert list(commands(plan)) == [], "it is never a change"
    except HostError as error:
        heard.append(str(error))
    else:
        heard = [f"note: {sentence}" for sentence in heard]
    assert len(ran) == 1
    assert heard[0].startswith(said) if said else heard == [], heard
    with listening():
        assert list(commands(plan)) == [], "whoever asks what differs writes nothing"
    assert len(ran) == 1
