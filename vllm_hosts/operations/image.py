"""Checks which vLLM an image really has, before an agent is created from it."""

from __future__ import annotations

from shlex import quote

from packaging.version import InvalidVersion, Version
from pyinfra.context import ctx_state

from vllm_hosts.errors import HostError
from vllm_hosts.facts import look
from vllm_hosts.facts.docker import IMAGE_VERSION, ImageVersion
from vllm_hosts.host.paths import STAMPS
from vllm_hosts.operations.base import Commands, host_operation, watched
from vllm_hosts.operations.checks import say
from vllm_hosts.operations.differences import differs
from vllm_hosts.settings import Vllm
from vllm_hosts.settings.vllm import VLLM_FLOOR

#: Asks the interpreter that runs vLLM for the package's version, without starting vLLM.
_ASK = r"""
ask='from importlib.metadata import version; print(version("vllm"))'
program=$(command -v vllm || :)
own=$([ -z "$program" ] || head -n 1 "$program" | sed -n 's/^#! *\(\/[^ ]*\).*/\1/p')
for python in $own python3 python; do
    found=$("$python" -c "$ask" 2>/dev/null) && [ -n "$found" ] && { echo "$found"; exit 0; }
done
echo unknown
"""


@host_operation
def image_above_floor(vllm: Vllm) -> Commands:
    """Fail a host if its image's vLLM has a key that can be bypassed, whatever the tag says.

    Each image is checked once; a record holds its id and its answer.
    """
    image = vllm.image
    found = look(ImageVersion, image=image)
    if not found.id or found.version is None:
        differs(f"the vLLM in {image}", "has not been checked for its version")
        yield watched(
            f"checking which vLLM {image} has",
            f"""
            set -eu
            id=$(docker image inspect --format '{{{{.Id}}}}' {quote(image)})
            code=0
            found=$(timeout 300 docker run --rm --network none --read-only --cap-drop ALL \\
                --security-opt no-new-privileges --user {vllm.user} --pids-limit 256 \\
                --workdir / --entrypoint sh {quote(image)} -c {quote(_ASK)}) || code=$?
            # An image without a shell does not say; that Docker cannot run it is another matter.
            case $code in 0) ;; 126 | 127) found=unknown ;; *) exit 1 ;; esac
            found=$(echo "$found" | tail -n 1 | cut -c 1-100)
            mkdir -p {STAMPS}
            echo "$id $found" >{IMAGE_VERSION}.new; mv {IMAGE_VERSION}.new {IMAGE_VERSION}
            """,
        )
        if not ctx_state.get().is_executing:
            return
        found = look(ImageVersion, image=image)
    problem, warning = judged(vllm, found.version)
    if problem:
        raise HostError(problem)
    say([warning] if warning else [])


def judged(vllm: Vllm, said: str | None) -> tuple[str | None, str | None]:
    """Why an image is refused, and what is odd about it.

    :param said: its package's version; ``unknown`` or None: it has none.
    """
    try:
        version = Version(said or "")
    except InvalidVersion:
        if vllm.version is not None:
            return None, (
                f"the image {vllm.image} does not report which vLLM it has; vllm.version"
                f" {vllm.version} is assumed"
            )
        return (
            f"the image {vllm.image} does not report which vLLM it has; use another image, or set"
            " vllm.version to what it really has"
        ), None
    if version < VLLM_FLOOR:
        claimed = f" (vllm.version says {vllm.version})" if vllm.version else ""
        return (
            f"the image {vllm.image} has vLLM {version}{claimed}, which has known vulnerabilities"
            f" that bypass its key; use an image with {VLLM_FLOOR} or newer"
        ), None
    claim = vllm.vllm_version
    if claim is not None and claim.release != version.release:
        return None, f"the image {vllm.image} has vLLM {version}, and is taken for {claim}"
    return None, None
