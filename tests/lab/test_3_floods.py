"""Strangers without a key, many at once: the edge goes on answering, and its disk stays empty.

Bounded in count and time, and sent to the lab's hosts only.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from shlex import quote

import pytest
import requests

from lab import hosts as lab_hosts
from lab import layout
from tests.http2 import flood
from tests.lab.conftest import Deployed
from tests.lab.deploys import changes, deploy

LOG = "/var/log/vllm-hosts/access.log"
#: More addresses of the neighbour's, on the bridge's network.
SOURCES = tuple(str(layout.BRIDGE_V4.network[last]) for last in (231, 232, 233))
CONNECTIONS = 3000

#: Connections that begin a handshake and say nothing more. The edge ends each after ten seconds.
_HOLD = f"""
import socket, sys, time
address, *sources = sys.argv[1:]
held = []
for number in range({CONNECTIONS}):
    one = socket.socket()
    one.setblocking(False)
    one.bind((sources[number % len(sources)], 0))
    one.connect_ex((address, 443))
    held.append(one)
for pause in range(15):
    time.sleep(1)
    for one in held:
        try:
            one.send(bytes([22, 3, 1])) if pause == 0 else None
        except OSError:
            pass
"""


def ask(deployed: Deployed, timeout: float = 10) -> requests.Response:
    return requests.get(
        f"https://{deployed.settings['gpu1'].address}/v1/models",
        headers={"Authorization": f"Bearer {deployed.client_key.get_secret_value()}"},
        verify=str(deployed.ca_file),
        timeout=timeout,
    )


def size(*names: str) -> int:
    """Bytes of logs on gpu1, compressed ones as what is in them."""
    found = lab_hosts.run("gpu1", f"for f in {' '.join(names)}; do zcat -f $f; done | wc -c")
    return int(found.stdout)


@pytest.fixture
def held(deployed: Deployed) -> Iterator[None]:
    """The neighbour holds unfinished connections to gpu1, from four addresses."""
    neighbour = lab_hosts.host("neighbour")
    for source in SOURCES:
        lab_hosts.run("neighbour", f"ip addr replace {source}/32 dev host0")
    sources = " ".join((str(neighbour.ipv4), *SOURCES))
    address = deployed.settings["gpu1"].address
    try:
        lab_hosts.run(
            "neighbour",
            "systemd-run -q --collect --unit lab-holder -p LimitNOFILE=8192 -p RuntimeMaxSec=60"
            f" python3 -c {quote(_HOLD)} {address} {sources}",
        )
        yield
    finally:
        lab_hosts.run("neighbour", "systemctl stop lab-holder", check=False)
        for source in SOURCES:
            lab_hosts.run("neighbour", f"ip addr del {source}/32 dev host0", check=False)


def test_clients_are_answered_while_strangers_hold_connections(
    deployed: Deployed, held: None
) -> None:
    until, took, most = time.monotonic() + 20, [], 0
    while not most and time.monotonic() < until:
        most = _held_now()
        time.sleep(0.2)
    for _ in range(12):
        started = time.monotonic()
        assert ask(deployed).status_code == 200
        took.append(time.monotonic() - started)
        most = max(most, _held_now())
        time.sleep(0.3)
    # The firewall may let fewer of a source through; fewer than that many are no attack.
    assert most > 1500, "the strangers' connections do not even arrive"
    assert max(took) < 1, took


def _held_now() -> int:
    count = "ss -Htn state established '( sport = :443 )' | wc -l"
    return int(lab_hosts.run("gpu1", count).stdout)


def test_refusals_leave_few_lines(deployed: Deployed) -> None:
    address = deployed.settings["gpu1"].address
    everything = (f"{LOG}*", "/var/log/nginx/*", "/var/log/vllm-hosts/error.log*")
    before = size(*everything)
    found = [flood(address, 443, address, "/" + "a" * 100, 750) for _ in range(2)]
    assert sum(answers for _, answers in found) > 1000, "the flood did not arrive"
    grown = size(*everything) - before
    assert 0 < grown < 100_000, grown
    assert ask(deployed).status_code == 200, "a client on the same machine is not limited"


def test_a_large_log_is_rotated_and_nginx_goes_on_in_the_new_one(deployed: Deployed) -> None:
    settings = {"hosts": {"gpu1": {"edge": {"log_max_size": "64k", "log_max_files": 2}}}}
    run = deploy("--limit", "gpu1", settings=settings)
    assert run.code == 0, run.output[-4000:]
    try:
        for _ in range(4):
            # Lines that nobody wrote, so that it is large at once.
            lab_hosts.run("gpu1", f"head -c 100000 /dev/zero | tr '\\0' 'x' >>{LOG}")
            lab_hosts.run("gpu1", "systemctl start vllm-hosts-edge-logs.service")
            assert ask(deployed).status_code == 200
            last = lab_hosts.run("gpu1", f"tail -n 1 {LOG}").stdout
            assert '"status":200' in last, "nginx writes to the log that was rotated away"
        listing = lab_hosts.run("gpu1", f"stat -c '%n %a %U:%G' {LOG}*").stdout
        assert [line.split()[0].rpartition("/")[2] for line in listing.splitlines()] == [
            "access.log",
            "access.log.1.gz",
            "access.log.2.gz",
        ]
        assert {line.split()[1] for line in listing.splitlines()} == {"640"}
        unread = lab_hosts.run(
            "gpu1", f"setpriv --reuid 65534 --clear-groups cat {LOG}", check=False
        )
        assert unread.returncode != 0, "anybody on the host reads the log"
        again = deploy("--limit", "gpu1", settings=settings)
        assert changes(again) == {"gpu1": 0}, "a rotation looks like a change"
    finally:
        back = deploy("--limit", "gpu1")
        assert back.code == 0, back.output[-4000:]


def test_nginx_conf_is_left_as_it_is_but_for_one_number(deployed: Deployed) -> None:
    """And a deploy over the distribution's own number raises it again."""
    conf = "/etc/nginx/nginx.conf"
    with_ours = lab_hosts.run("gpu1", f"cat {conf}").stdout
    assert (
        lab_hosts.run("gpu1", "nginx -T 2>/dev/null | grep -c worker_rlimit_nofile").stdout == "1\n"
    )
    lab_hosts.run("gpu1", f"sed -i 's/worker_connections .*/worker_connections 768; # x/' {conf}")
    try:
        run = deploy("--limit", "gpu1")
        assert run.code == 0, run.output[-4000:]
        raised = lab_hosts.run("gpu1", f"cat {conf}").stdout
        number = re.compile(r"(?<=worker_connections )(\d+);(?: # x)?")
        assert number.sub("", raised) == number.sub("", with_ours)
        # Settings of other tests may have needed more, which no deploy takes back.
        most, now = (int(found) for text in (with_ours, raised) for found in number.findall(text))
        assert 768 < now <= most
        assert changes(deploy("--limit", "gpu1")) == {"gpu1": 0}
    finally:
        lab_hosts.run("gpu1", f"sed -i 's/; # x/;/' {conf}")
        back = deploy("--limit", "gpu1")
        assert back.code == 0, back.output[-4000:]
