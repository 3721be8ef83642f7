"""The container that fetches a model: each of its words, and what it is not told."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from vllm_hosts import hub
from vllm_hosts.host import fetching
from vllm_hosts.hub.hub_models import Download, HubModel, MirrorWay

MODEL = HubModel("org/model", "v2")
DOWNLOAD = Download("vllm:v1", "7:8", "/var/lib/vllm", None, None, 4)
MIRROR = MirrorWay("mirror", "192.0.2.9:8444", ("/ca", "/certificate", "/key"))
OPTIONS = shlex.split(
    "--rm --interactive --init --pull never --name fetch-1 --network vllm-fetch --pids-limit 1024"
    " --user 7:8 --cap-drop ALL --security-opt no-new-privileges:true --read-only --tmpfs /tmp"
    " --mount type=bind,source=/srv/folder,target=/cache/huggingface"
    " --mount type=bind,source=/etc/hosts,target=/etc/hosts,readonly --entrypoint python3"
)
VARIABLES = {
    "DO_NOT_TRACK": "1",
    "HF_HOME": "/cache/huggingface",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DOWNLOAD_TIMEOUT": "30",
    "HF_HUB_ETAG_TIMEOUT": "30",
    "HOME": "/tmp",
    "NVIDIA_VISIBLE_DEVICES": "void",
}


class Docker:
    """A docker that writes down what it was started with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("docker", "timeout"):
            words = folder / name
            words.write_text(
                f'#!/bin/sh\nprintf "%s\\0" {name} "$@" >>{folder}/words; env >{folder}/env\n'
                "[ ! -e gone ] || exit 1; cat >/dev/null\n"
            )
            words.chmod(0o755)

    def shell(self, script: str, **environment: str) -> list[str]:
        """The words, and what it printed itself."""
        (self.folder / "words").unlink(missing_ok=True)
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{self.folder}:/usr/bin:/bin", **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        assert (done.stdout, done.stderr) == ("", "")
        path = self.folder / "words"
        return path.read_text().split("\0")[:-1] if path.exists() else []

    def run(
        self, model: HubModel = MODEL, download: Download = DOWNLOAD, **more: object
    ) -> list[str]:
        how: dict[str, object] = {"container": "fetch-1", "folder": "/srv/folder", "program": ":"}
        return self.shell(fetching.run(model, download, **how | more))  # type: ignore[arg-type]


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    return Docker(tmp_path)


def variables(more: dict[str, str]) -> list[str]:
    return [
        word for name, value in (VARIABLES | more).items() for word in ("--env", f"{name}={value}")
    ]


def test_every_word_of_it(docker: Docker) -> None:
    end = shlex.split("vllm:v1 - org/model --revision v2 --workers 4 --cache /var/lib/vllm")
    assert docker.run() == ["docker", "run", *OPTIONS, *variables({}), *end]


def test_all_that_settings_can_add(docker: Docker) -> None:
    model = replace(
        MODEL,
        allow_pickle=True,
        ignore_files=("*.bin", "a b"),
        environment=(("HTTPS_PROXY", "http://p"), ("HF_HUB_DOWNLOAD_TIMEOUT", "99")),
    )
    download = replace(DOWNLOAD, token_file="/opt/.env", endpoint="https://h", mirror=MIRROR)
    words = docker.run(model, download, further=("--dry",), seconds=77)
    own = {"HF_ENDPOINT": "https://h", "HTTPS_PROXY": "http://p", "HF_HUB_DOWNLOAD_TIMEOUT": "99"}
    assert words[: len(OPTIONS) + 6] == ["timeout", "-k", "10", "77", "docker", "run", *OPTIONS]
    rest = words[len(OPTIONS) + 6 :]
    at = rest.index("vllm:v1")
    secrets = ["HF_TOKEN", "VLLM_HOSTS_MIRROR_CA", "VLLM_HOSTS_MIRROR_PEM"]
    named = [word for name in secrets for word in ("--env", name)]
    assert sorted(rest[:at]) == sorted([*variables(own), *named])
    assert rest[at + 1 :] == [
        *("-", "org/model", "--revision", "v2", "--workers", "4"),
        *("--cache", "/var/lib/vllm", "--allow-pickle"),
        *("--mirror", "192.0.2.9:8444", "--dry", "--ignore=*.bin", "--ignore=a b"),
    ]


def test_the_program_comes_by_a_pipe(docker: Docker) -> None:
    """It is the toolkit's own, and in no image."""
    (docker.folder / "docker").write_text(f"#!/bin/sh\ncat >{docker.folder}/program\n")
    docker.run(program="echo the program")
    assert (docker.folder / "program").read_text() == "the program\n"
    assert Path(hub.__file__).parent / "fetch.py" == fetching.PROGRAM
    assert "def main" in fetching.PROGRAM.read_text()


class TestSurroundings:
    def test_secrets_are_in_the_environment_and_in_no_word(
        self, docker: Docker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fetching, "_HOST_CAS", f"{docker.folder}/none")
        texts = {"env": "A=1\nHF_TOKEN=hf_1\nXHF_TOKEN=2\n", "ca": "CA\n", "pem": "P\n", "key": "K"}
        for name, text in texts.items():
            (docker.folder / name).write_text(text)
        files = tuple(str(docker.folder / name) for name in ("ca", "pem", "key"))
        way = replace(MIRROR, files=files)  # type: ignore[arg-type]
        download = replace(DOWNLOAD, token_file=f"{docker.folder}/env", mirror=way)
        script = f'set -- odd; {fetching.surroundings(download)}\ndocker run "$@" x'
        assert docker.shell(script) == ["docker", "run", "x"]
        seen = (docker.folder / "env").read_text()
        assert "\nHF_TOKEN=hf_1\n" in f"\n{seen}"
        assert "\nVLLM_HOSTS_MIRROR_CA=CA\n" in f"\n{seen}"
        assert "\nVLLM_HOSTS_MIRROR_PEM=P\nK\n" in f"\n{seen}"

    def test_what_the_host_trusts(self, docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
        cas = docker.folder / "cas.pem"
        monkeypatch.setattr(fetching, "_HOST_CAS", str(cas))
        script = f'set -- odd; {fetching.surroundings(DOWNLOAD)}\ndocker run "$@" x'
        for empty in (False, True):
            if empty:
                cas.write_text("")
            assert docker.shell(script, HF_TOKEN="") == ["docker", "run", "x"]
        cas.write_text("CA")
        assert docker.shell(script) == [
            *("docker", "run", "--env", "SSL_CERT_FILE=/run/host-cas.pem"),
            *("--env", "REQUESTS_CA_BUNDLE=/run/host-cas.pem"),
            *("--mount", f"type=bind,source={cas},target=/run/host-cas.pem,readonly", "x"),
        ]


def test_a_network_of_its_own(docker: Docker) -> None:
    (docker.folder / "docker").write_text(
        f'#!/bin/sh\necho "$*" >>{docker.folder}/asked; echo said; echo error >&2\n[ ! -e gone ]\n'
    )

    def asked(script: str) -> list[str]:
        docker.shell(script)
        path = docker.folder / "asked"
        lines = path.read_text().splitlines()
        path.unlink()
        return lines

    inspect = "network inspect vllm-fetch"
    assert asked(fetching.network()) == [inspect]
    assert asked(f"set -e; {fetching.no_network()}") == ["network rm vllm-fetch"]
    (docker.folder / "gone").touch()
    # Where there is none already, all is well.
    assert asked(f"set -e; {fetching.no_network()}") == ["network rm vllm-fetch"]
    (docker.folder / "docker").write_text(
        f'#!/bin/sh\necho "$*" >>{docker.folder}/asked; [ "$2" != inspect ]\n'
    )
    assert asked(fetching.network()) == [
        inspect,
        "network create --driver bridge --opt com.docker.network.bridge.name=vllm-fetch vllm-fetch",
    ]
    assert shlex.split(fetching.NETWORK) == ["vllm-fetch"]
