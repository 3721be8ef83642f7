"""What is said of a removal before it begins: what goes, what stays and why. Touches no host."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_hosts.host import paths
from vllm_hosts.roles.removal.plan import DOCKER, FIREWALL, Removal, few


def goes(removal: Removal) -> Iterator[str]:
    """What will be removed, a sentence each."""
    if removal.nothing:
        yield "nothing of ours is on the host"
        return
    if agents := removal.agents:
        yield f"agents {', '.join(agents)} are stopped and removed; clients get no answer any more"
    if removal.images:
        yield f"{len(removal.images)} image(s) of agents are removed"
    if going := removal.packages(firewall=True):
        named = [name for name in going if name in removal.remains.manifest.packages]
        more = len(going) - len(named)
        yield f"packages removed: {', '.join(named)}" + (
            f", and {more} that came with them" if more else ""
        )
    yield "our files, keys, certificates and logs on the host are removed, its firewall table last"
    if removal.models and removal.model_folders:
        yield f"models removed: {', '.join(removal.model_folders)}"


def stays(removal: Removal) -> Iterator[str]:
    """What will stay although deploys have had to do with it, a sentence each."""
    if removal.nothing:
        return
    if removal.kept_models:
        yield f"models stay in {removal.kept_models}, which was there before: others may be in it"
    if not removal.models and removal.model_folders:
        yield (
            f"models stay in {', '.join(removal.model_folders)};"
            " --data remove_models=true removes them"
        )
    if others := removal.others:
        yield f"what no deploy wrote stays: {few(others, 20)}"
    yield "the clients' keys and the CA stay in the store here"
    if not removal.known:
        yield (
            "an earlier version deployed first and did not write down what was there before, so"
            " packages, holds, apt's sources, daemon.json and nginx.conf stay as they are"
        )
        return
    if removal.remains.docker.installed and removal.docker_stays:
        yield f"Docker stays: {removal.docker_stays}"
    if "nginx" in removal.remains.packages and removal.nginx_stays:
        yield f"nginx stays: {removal.nginx_stays}"
    if removal.remains.own_rules:
        yield "nftables stays: nftables.service loads rules of others"
    if removal.remains.own_haproxy and "haproxy" in removal.brought:
        yield "haproxy stays: haproxy.service is enabled or runs, for somebody else's use"
    if removal.remains.own_keepalived and "keepalived" in removal.brought:
        yield "keepalived stays: keepalived.service has a configuration, for somebody else's use"
    if kept := [
        name
        for name in removal.kept_packages()
        if not (removal.docker_stays and name in DOCKER)
        and not (removal.nginx_stays and name == "nginx")
        and not (removal.remains.own_haproxy and name == "haproxy")
        and not (removal.remains.own_keepalived and name == "keepalived")
        and name not in FIREWALL
    ]:
        yield f"packages that others need stay: {', '.join(kept)}"
    if paths.NOUVEAU in removal.files:
        yield "the GPU driver's kernel module stays loaded until the next boot"
    if removal.remains.docker.installed and not removal.docker_stays:
        yield "iptables rules of Docker's own stay in the kernel until the next boot"
