"""The container that fetches a model from the hub. Touches no host."""

from __future__ import annotations

import shlex
from pathlib import Path
from shlex import quote

from vllm_hosts import hub
from vllm_hosts.hub.hub_models import Download, HubModel
from vllm_hosts.settings.cells import FETCHING

PROGRAM = Path(hub.__file__).with_name("fetch.py")
#: Its network and its bridge: it leads out and to nothing on the host; the firewall knows it.
NETWORK = FETCHING
_HF_HOME = "/cache/huggingface"
#: Variables of the container that has to do with a mirror: CAs, and certificate and key.
MIRROR_CA = "VLLM_HOSTS_MIRROR_CA"
MIRROR_PEM = "VLLM_HOSTS_MIRROR_PEM"
#: What the host itself trusts, so that a mirror behind a company's own CA works.
_HOST_CAS = "/etc/ssl/certs/ca-certificates.crt"


def network() -> str:
    """Shell: have the network of downloads."""
    return f"""docker network inspect {NETWORK} >/dev/null 2>&1 || docker network create \\
            --driver bridge --opt com.docker.network.bridge.name={NETWORK} {NETWORK} >/dev/null"""


def no_network() -> str:
    """Shell: have it no more."""
    return f"docker network rm {NETWORK} >/dev/null 2>&1 || :"


def surroundings(download: Download) -> str:
    """Shell: what the container gets beside its arguments: the token, the host's certificates.

    The token is in no argument, nor is the key for a mirror.
    """
    token = ""
    if download.token_file:
        token = f"HF_TOKEN=$(sed -n 's/^HF_TOKEN=//p' {download.token_file}); export HF_TOKEN"
    if download.mirror:
        ca, certificate, key = download.mirror.files
        token += f"""
        {MIRROR_CA}=$(cat {ca}); {MIRROR_PEM}=$(cat {certificate} {key})
        export {MIRROR_CA} {MIRROR_PEM}"""
    return f"""{token}
        set --
        [ ! -s {_HOST_CAS} ] || set -- --env SSL_CERT_FILE=/run/host-cas.pem \\
            --env REQUESTS_CA_BUNDLE=/run/host-cas.pem \\
            --mount type=bind,source={_HOST_CAS},target=/run/host-cas.pem,readonly"""


def run(
    model: HubModel,
    download: Download,
    *,
    container: str,
    folder: str,
    program: str,
    further: tuple[str, ...] = (),
    seconds: int | None = None,
) -> str:
    """Shell: fetch one model into a folder, in huggingface_hub's layout; after ``surroundings``.

    :param folder: a path, or a shell word that is one.
    :param program: shell that prints ``PROGRAM``.
    :param further: arguments of the program.
    :param seconds: how long it may take; None: as long as it goes on.
    """
    environment = {
        "DO_NOT_TRACK": "1",
        "HF_HOME": _HF_HOME,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "30",
        "HF_HUB_ETAG_TIMEOUT": "30",
        "HOME": "/tmp",  # noqa: S108
        # Where NVIDIA's runtime is the default it would give every GPU otherwise.
        "NVIDIA_VISIBLE_DEVICES": "void",
        **({"HF_ENDPOINT": download.endpoint} if download.endpoint else {}),
        **dict(model.environment),
    }
    options = [
        *["--rm", "--interactive", "--init", "--pull", "never", "--name", container],
        *["--network", NETWORK, "--pids-limit", "1024"],
        *["--user", download.user, "--cap-drop", "ALL"],
        *["--security-opt", "no-new-privileges:true", "--read-only", "--tmpfs", "/tmp"],  # noqa: S108
    ]
    # A mirror may be known to the host alone.
    rest = ["--mount", "type=bind,source=/etc/hosts,target=/etc/hosts,readonly"]
    rest += ["--entrypoint", "python3"]
    for name, value in environment.items():
        rest += ["--env", f"{name}={value}"]
    if download.token_file:
        rest += ["--env", "HF_TOKEN"]
    if download.mirror:
        rest += ["--env", MIRROR_CA, "--env", MIRROR_PEM]
    words = ["-", model.model, "--revision", model.revision]
    words += ["--workers", str(download.connections), "--cache", download.cache_directory]
    words += ["--allow-pickle"] if model.allow_pickle else []
    words += ["--mirror", download.mirror.place] if download.mirror else []
    words += further
    for pattern in model.ignore_files:
        words.append(f"--ignore={pattern}")
    limit = f"timeout -k 10 {seconds} " if seconds else ""
    return f"""{program} |
            {limit}docker run {shlex.join(options)} \\
            --mount type=bind,source={folder},target={_HF_HOME} \\
            {shlex.join(rest)} "$@" {quote(download.image)} {shlex.join(words)}"""
