"""Models, fetched or copied before any agent is switched to them.

Promises: what the agents load is complete on the host, at the revision that the settings name, and
a running agent never depends on the hub. Needs: vllm_image, secrets (the hub's token). Writes: the
cache, folders with copy_from, records of what is complete. Restarts: nothing; if a model cannot be
fetched, the host fails here, and whatever runs continues.
"""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from vllm_hosts.host.models import copies, download, hub_models, models_for_others, through_mirror
from vllm_hosts.operations.hub import models_fetched
from vllm_hosts.operations.mirror import models_mirrored
from vllm_hosts.operations.model_cache import cache_adopted
from vllm_hosts.operations.model_copy import models_copied
from vllm_hosts.operations.tree import tree_synced
from vllm_hosts.project import run
from vllm_hosts.roles.models.plan import cache_folders


@deploy("Models")
def models() -> None:
    """Fetch models from the hub, and copy others from the controller."""
    settings = run.current().settings
    cache_adopted(
        settings.vllm.cache_directory,
        settings.vllm.fetch_user,
        settings.vllm.image,
        name="No agent can write into the models' cache",
    )
    tree_synced(cache_folders(settings), name="The models' cache is there")
    if settings.is_mirror:
        # Before the others ask for them: an operation ends on all hosts before the next begins.
        models_fetched(
            hub_models(settings), download(settings), name="The mirror's own models are complete"
        )
        models_mirrored(
            models_for_others(settings),
            download(settings),
            name="The mirror has what other hosts need",
        )
    models_fetched(
        hub_models(settings), through_mirror(settings), name="Models from the hub are complete"
    )
    models_copied(copies(settings), name="Models from the controller are complete")
