"""vLLM's image, from which later roles start containers.

Promises: the image that the settings name is on the host, and its vLLM has no known vulnerability
that bypasses its key. Needs: docker, which is not restarted while the image is pulled beside other
roles. Writes: the image, records of its version and of the images that agents use.
Restarts: nothing.
"""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from vllm_hosts.agents.prune import images_noted
from vllm_hosts.operations.docker import image_begun, image_present
from vllm_hosts.operations.image import image_above_floor
from vllm_hosts.project import run


@deploy("vLLM image")
def vllm_image_begun() -> None:
    """Begin to fetch the image, beside what the run does next. A mirror has to be there first."""
    settings = run.current().settings
    if settings.mirror_at is None:
        image_begun(settings.vllm.image, name="The vLLM image is fetched beside other work")


@deploy("vLLM image")
def vllm_image() -> None:
    """Wait for the image, or fetch it, and check its version."""
    settings = run.current().settings
    vllm = settings.vllm
    image_present(vllm.image, settings.mirror_at, name="The vLLM image is on the host")
    image_above_floor(
        vllm, name="The image's vLLM has no known vulnerability that bypasses its key"
    )
    images_noted(vllm.image, name="Images that agents use are recorded")
