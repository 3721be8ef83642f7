"""Fetching models from the hub, before any container is touched."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from vllm_hosts import hub
from vllm_hosts.facts import look
from vllm_hosts.facts.hub import MODELS, HubModels, asked_of
from vllm_hosts.hub.model import Download, HubModel
from vllm_hosts.operations.base import Commands, host_operation, watched
from vllm_hosts.operations.differences import differs
from vllm_hosts.settings.cells import FETCHING

#: A second one replaces the first: what is left of a run whose connection broke is not resumed.
CONTAINER = "vllm-hosts-fetch"
#: Its network and its bridge.
NETWORK = FETCHING
_PROGRAM = Path(hub.__file__).with_name("fetch.py")
_HF_HOME = "/cache/huggingface"
#: What the host itself trusts, so that a mirror behind a company's own CA works.
_HOST_CAS = "/etc/ssl/certs/ca-certificates.crt"


@host_operation
def models_fetched(models: Sequence[HubModel], download: Download) -> Commands:
    """Have these models whole in the host's cache, saying how far it is.

    A model that is there is not asked for again. One that is not is fetched in a container of the
    agents' image, which resumes where an earlier one stopped; if that fails, the host fails with
    one sentence, and nothing that runs was touched.
    """
    if not models:
        return
    asked = asked_of(models, download.cache_directory)
    found = look(HubModels, models=asked, reader=download.user)
    for model in models:
        if not found[model.key].complete(model.revision):
            differs(f"model {model.model}", f"is not in the cache at revision {model.revision}")
            # Without a note nobody knows who wrote what is there.
            script = fetch_script(model, download, distrust=found[model.key].commit is None)
            yield watched(f"fetching {model.model}", script, seconds=5, tail=2)


def fetch_script(model: HubModel, download: Download, *, distrust: bool) -> str:
    """The shell script that fetches one model. The token is in no argument.

    :param distrust: believe nothing of what is in the cache: read it all, and compare it with what
        the hub says.
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
        *["--rm", "--interactive", "--init", "--pull", "never", "--name", CONTAINER],
        # A network that leads out and to nothing on the host; the firewall knows its bridge.
        *["--network", NETWORK, "--pids-limit", "1024"],
        *["--user", download.user, "--cap-drop", "ALL"],
        *["--security-opt", "no-new-privileges:true", "--read-only", "--tmpfs", "/tmp"],  # noqa: S108
        "--mount",
        f"type=bind,source={download.cache_directory}/huggingface,target={_HF_HOME}",
        # A mirror may be known to the host alone.
        *["--mount", "type=bind,source=/etc/hosts,target=/etc/hosts,readonly"],
        *["--entrypoint", "python3"],
    ]
    for name, value in environment.items():
        options += ["--env", f"{name}={value}"]
    words = ["-", model.model, "--revision", model.revision]
    words += ["--workers", str(download.connections), "--cache", download.cache_directory]
    words += ["--allow-pickle"] if model.allow_pickle else []
    words += ["--distrust"] if distrust else []
    for pattern in model.ignore_files:
        words.append(f"--ignore={pattern}")
    token = ""
    if download.token_file:
        options += ["--env", "HF_TOKEN"]
        token = f"HF_TOKEN=$(sed -n 's/^HF_TOKEN=//p' {download.token_file}); export HF_TOKEN"
    stamp = f"{MODELS}/{model.key}"
    return f"""
        set -eu
        docker rm --force {CONTAINER} >/dev/null 2>&1 || :
        docker network inspect {NETWORK} >/dev/null 2>&1 || docker network create --driver bridge \
            --opt com.docker.network.bridge.name={NETWORK} {NETWORK} >/dev/null
        trap 'docker network rm {NETWORK} >/dev/null 2>&1 || :' EXIT
        (umask 022; mkdir -p {MODELS})
        {token}
        set --
        [ ! -s {_HOST_CAS} ] || set -- --env SSL_CERT_FILE=/run/host-cas.pem \
            --env REQUESTS_CA_BUNDLE=/run/host-cas.pem \
            --mount type=bind,source={_HOST_CAS},target=/run/host-cas.pem,readonly
        code=0
        printf %s {quote(_PROGRAM.read_text())} |
            docker run {shlex.join(options)} "$@" {quote(download.image)} {shlex.join(words)} \
            >{stamp}.new || code=$?
        if [ $code -ne 0 ]; then
            rm -f {stamp}.new
            [ $code -eq 3 ] || echo "the download of {model.model} ended with $code;" \
                "what came so far is kept, run again"
            exit 1
        fi
        mv {stamp}.new {stamp}
    """
