"""keepalived of a gateway, from settings and the interface for the address. Touches no host."""

from __future__ import annotations

from vllm_hosts.host.files import Absent, Entry, File, Folder
from vllm_hosts.host.paths import (
    BALANCER_UNIT,
    GATEWAY_ANSWERS,
    KEEPALIVED_CONF,
    KEEPALIVED_FOLDER,
    KEEPALIVED_RUN,
    KEEPALIVED_UNIT,
    pool_socket,
)
from vllm_hosts.host.render import render
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import ALIVE, VirtualAddress

#: nginx's workers, on Debian and Ubuntu: they, and root, may ask HAProxy.
_USER = "www-data"
#: Seconds. A client's first packet that nobody takes is sent again after one second and after
#: three: who takes over has to do so within the first of them. The first gateway does after three
#: and a half intervals, each other one an interval later, so that no two of them do at once.
_INTERVAL, _MISSED = 0.2, 3
#: Seconds until a gateway that has just started may take the address: by then it has heard who has
#: it, also where its switch takes a moment.
_START = 3
_UNIT_FILE = f"/etc/systemd/system/{KEEPALIVED_UNIT}"


def virtual_entries(settings: HostSettings, shared: VirtualAddress, interface: str) -> list[Entry]:
    """The configuration, the unit, and the script that says whether this gateway answers.

    :param interface: the one that gets the address.
    """
    unit = render(
        f"virtual_address/{KEEPALIVED_UNIT}.j2",
        keepalived="/usr/sbin/keepalived",
        conf=KEEPALIVED_CONF,
        run=KEEPALIVED_RUN,
        balancer=BALANCER_UNIT,
    )
    return [
        Folder("/etc/vllm-hosts"),
        Folder(KEEPALIVED_FOLDER),
        File(KEEPALIVED_CONF, configuration(shared, interface).encode()),
        File(GATEWAY_ANSWERS, answers_script(settings).encode(), mode=0o755),
        File(_UNIT_FILE, unit.encode()),
    ]


def nothing() -> list[Entry]:
    """What is there where gateways share no address."""
    return [Absent(_UNIT_FILE), Absent(KEEPALIVED_CONF), Absent(GATEWAY_ANSWERS)]


def configuration(shared: VirtualAddress, interface: str) -> str:
    """keepalived's configuration."""
    return render(
        "virtual_address/keepalived.conf.j2",
        user=_USER,
        script=GATEWAY_ANSWERS,
        start=_START,
        interval=_INTERVAL,
        missed=_MISSED + shared.place,
        interface=interface,
        router_id=shared.router_id,
        own=shared.own,
        peers=shared.peers,
        address=shared.alone,
    )


def answers_script(settings: HostSettings) -> str:
    """What keepalived runs every second: whether nginx and HAProxy answer."""
    return render(
        "virtual_address/gateway-answers.j2",
        port=settings.edge.http_port,
        socket=pool_socket(ALIVE),
    )
