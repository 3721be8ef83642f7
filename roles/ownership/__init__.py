"""Which inventory a host belongs to.

Promises: a host has keys and certificates from one inventory's store, and another inventory's run
leaves it as it is. A host with somebody else's files where a deploy would write is left alone too.
Needs: preflight, except in a run of keys.py. Writes: /etc/vllm-hosts/store; into
/var/lib/vllm-hosts/before, what the host had before us; into /var/lib/vllm-hosts/manifest, what of
folders that are not only ours will be ours; and the host into the store on the controller. Restarts
nothing.
"""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from vllm_hosts.host.paths import agents_folder, models_folder
from vllm_hosts.host.shared import Shared, shared_of
from vllm_hosts.operations.ownership import not_anothers, owned
from vllm_hosts.project import run


@deploy("Ownership")
def ownership(*, first: bool = True) -> None:
    """Refuse a host of another inventory's store; record on both sides whose it is.

    :param first: whether a host without keys becomes this inventory's.
    """
    here, folders, shared = run.at_hand(), list[str](), Shared()
    if first:
        settings = run.current().settings
        shared = shared_of(settings)
        not_anothers(here.claim, shared, name="The host belongs to no other inventory")
        # Of a gateway as well: it may run agents later.
        folders = [settings.vllm.directory, settings.vllm.cache_directory]
        folders += [models_folder(settings), agents_folder(settings)]
    owned(
        here.claim,
        first=first,
        listed=here.listed,
        folders=folders,
        shared=shared,
        name="The host belongs to this inventory's store",
    )
