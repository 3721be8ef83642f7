"""Fetches models from the hub, before any container is touched."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from vllm_hosts.facts import look
from vllm_hosts.facts.hub import HubModels, asked_of
from vllm_hosts.host import fetching
from vllm_hosts.host.paths import MODEL_NOTES
from vllm_hosts.hub.hub_models import Download, HubModel
from vllm_hosts.operations.base import Commands, host_operation, watched
from vllm_hosts.operations.differences import differs

#: One name for all: a new download replaces one that is left from a run that lost its connection.
CONTAINER = "vllm-hosts-fetch"


@host_operation
def models_fetched(models: Sequence[HubModel], download: Download) -> Commands:
    """Complete these models in the host's cache, reporting progress.

    For a complete model the hub is not queried. Any other is fetched in a container of the agents'
    image, which resumes where an earlier one stopped; if that fails, the host fails with one
    sentence, and whatever runs is untouched.
    """
    if not models:
        return
    asked = asked_of(models, download.cache_directory)
    found = look(HubModels, models=asked, reader=download.user)
    for model in models:
        if not found[model.key].complete(model.revision):
            differs(f"model {model.model}", f"is not in the cache at revision {model.revision}")
            # Without a record, nobody knows who wrote what is there.
            script = fetch_script(model, download, distrust=found[model.key].commit is None)
            noted = download.mirror is not None
            yield watched(f"fetching {model.model}", script, seconds=5, tail=2, notes=noted)


def fetch_script(model: HubModel, download: Download, *, distrust: bool) -> str:
    """The shell script that fetches one model. The token is in no argument.

    :param distrust: trust nothing in the cache: read all of it, and compare it with the hub.
    """
    stamp = f"{MODEL_NOTES}/{model.key}"
    fetch = fetching.run(
        model,
        download,
        container=CONTAINER,
        folder=f"{download.cache_directory}/huggingface",
        program=f"printf %s {quote(fetching.PROGRAM.read_text())}",
        further=("--distrust",) if distrust else (),
    )
    return f"""
        set -eu
        docker rm --force {CONTAINER} >/dev/null 2>&1 || :
        {fetching.network()}
        trap '{fetching.no_network()}' EXIT
        (umask 022; mkdir -p {MODEL_NOTES})
        {fetching.surroundings(download)}
        code=0
        {fetch} >{stamp}.new || code=$?
        if [ $code -ne 0 ]; then
            rm -f {stamp}.new
            [ $code -eq 3 ] || echo "the download of {model.model} ended with $code;" \
                "what came so far is kept, run again"
            exit 1
        fi
        mv {stamp}.new {stamp}
    """
