"""What a real keepalived does with the configurations of two gateways, in networks of their own."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.unit.fleets import fleet
from tests.unit.real_nginx import LUA_LIBRARIES, UNPACKED, program
from tests.unit.samples import settings
from tests.unit.test_firewall import AROUND
from vllm_hosts.host.files import File
from vllm_hosts.host.paths import (
    GATEWAY_ANSWERS,
    KEEPALIVED_CONF,
    KEEPALIVED_FOLDER,
    KEEPALIVED_RUN,
)
from vllm_hosts.operations.keepalived import VALIDATE
from vllm_hosts.roles.firewall.plan import rules
from vllm_hosts.roles.virtual_address.plan import configuration, virtual_entries
from vllm_hosts.settings.fleet import VirtualAddress

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to have networks")

FIRST = VirtualAddress(
    ip_address("192.0.2.9"), ip_address("192.0.2.1"), (ip_address("192.0.2.2"),), 0
)
SECOND = replace(FIRST, own=FIRST.peers[0], peers=(FIRST.own,), place=1)
#: Files and networks that nobody else sees: a wire with two machines at it. keepalived's script is
#: where others than root cannot change it, and says whether a file is there.
_SETUP = f"""
set -eu
cd "$1"; keepalived=$2; libraries=$3; unpacked=$4; words=$5; rights=$6
mount --make-rprivate /; mount -t tmpfs none /run; mkdir /run/upper /run/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work none /etc
mkdir -p {KEEPALIVED_FOLDER} /etc/keepalived
cp "$unpacked"/etc/keepalived/keepalived.config-opts /etc/keepalived/ 2>/dev/null || :
cat >{GATEWAY_ANSWERS} <<'END'
#!/bin/sh
own=$(ip -o address show to 192.0.2.0/30 | grep -o '192.0.2.[12]/' | tr -d /)
[ -e "/run/well/$own" ]
END
chmod 755 {GATEWAY_ANSWERS}
ip link add wire type bridge; ip link set wire up
for n in 1 2; do
    ip netns add gw$n; ip link add port$n type veth peer name eth0 netns gw$n
    ip link set port$n master wire up; ip -n gw$n link set lo up
    ip -n gw$n address add 192.0.2.$n/24 dev eth0; ip -n gw$n link set eth0 up
done
for n in 1 2; do mkdir /run/gw$n; mount -t tmpfs none /run/gw$n; done
mkdir /run/well; mount -t tmpfs none /run/well; touch /run/well/192.0.2.1 /run/well/192.0.2.2
mount -o remount,ro /run
start() {{ # as the unit does: with its words and its rights, and nothing else to write in /run
    own=$(echo "$words" | sed "s|{KEEPALIVED_CONF}|conf.$1|; s|{KEEPALIVED_RUN}|/run/gw$1|g")
    LD_LIBRARY_PATH=$libraries nsenter --net=/run/netns/gw$1 setpriv --no-new-privs \\
        --bounding-set "$rights" "$keepalived" $own --log-console >>log.$1 2>&1 &
}}
holders() {{
    for n in 1 2; do
        ! ip -n gw$n address show eth0 | grep -q 'inet 192.0.2.9/32' || printf ' gw%s' $n
    done
}}
wrong() {{ echo "$1: '$(holders)'"; cat log.*; exit 1; }}
until_held() {{ # BY SECONDS: waits, and says for how many milliseconds
    from=$(date +%s%3N)
    while [ "$(holders)" != " $1" ]; do
        [ $(($(date +%s%3N) - from)) -lt $(($2 * 1000)) ] || wrong late
        sleep 0.02
    done
    echo "$1 $(($(date +%s%3N) - from))"
}}
stays() {{ # BY SECONDS
    end=$(($(date +%s) + $2))
    while [ "$(date +%s)" -lt $end ]; do
        [ "$(holders)" = " $1" ] || wrong moved
        sleep 0.05
    done
}}
ended() {{
    for file in /run/gw?/keepalived.pid; do
        [ ! -e "$file" ] || kill "$(cat "$file")" 2>/dev/null || :
    done
}}
trap ended EXIT
"""


#: Whoever has the name of the second gateway says for a while that it goes before all others.
_FORGES = """
import socket, struct, sys, time
number, hops = map(int, sys.argv[1:])
source, to = (socket.inet_aton(f"192.0.2.{n}") for n in (2, 1))

def advert(check):
    return struct.pack("!BBBBHH4s", 0x31, number, 254, 1, 20, check, socket.inet_aton("192.0.2.9"))

text = source + to + struct.pack("!BBH", 0, 112, 12) + advert(0)
total = sum(struct.unpack(f"!{len(text) // 2}H", text))
while total >> 16:
    total = (total & 0xFFFF) + (total >> 16)
head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 32, 1, 0, hops, 112, 0, source, to)
wire = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for _ in range(15):
    wire.sendto(head + advert(~total & 0xFFFF), ("192.0.2.1", 0))
    time.sleep(0.1)
"""


def words_and_rights() -> tuple[str, str]:
    """What the unit says to keepalived, and what it leaves to root."""
    entries = virtual_entries(settings(), FIRST, "eth0")
    [unit] = [one for one in entries if one.path.endswith(".service")]
    assert isinstance(unit, File)
    [words] = re.findall(r"^ExecStart=\S+ (.*)$", unit.content.decode(), re.MULTILINE)
    [kept] = re.findall(r"^CapabilityBoundingSet=(.*)$", unit.content.decode(), re.MULTILINE)
    rights = [f"+{name.removeprefix('CAP_').lower()}" for name in kept.split()]
    return words, ",".join(["-all", *rights])


def inside(folder: Path, script: str) -> str:
    (folder / "conf.1").write_text(configuration(FIRST, "eth0"))
    (folder / "conf.2").write_text(configuration(SECOND, "eth0"))
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", _SETUP + script, "test", str(folder)]
        + [program("keepalived"), LUA_LIBRARIES, str(UNPACKED), *words_and_rights()],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_address_goes_to_who_is_well_and_back_to_nobody(tmp_path: Path) -> None:
    found = inside(
        tmp_path,
        """
        start 1; start 2; until_held gw1 20
        kill -HUP $(cat /run/gw1/keepalived.pid); stays gw1 2
        ip link set port1 down; ip -n gw1 address flush dev eth0
        kill -9 $(cat /run/gw1/keepalived.pid /run/gw1/vrrp.pid)
        until_held gw2 3
        ip -n gw1 address add 192.0.2.1/24 dev eth0; ip link set port1 up; rm -f /run/gw1/*
        touch /run/well/192.0.2.1; start 1; stays gw2 6
        rm /run/well/192.0.2.2; until_held gw1 8
        rm /run/well/192.0.2.1; sleep 4; [ -n "$(holders)" ]
        """,
    )
    lines = [line.split() for line in found.splitlines()]
    took = [int(milliseconds) for who, milliseconds in lines if who == "gw2"]
    # A client's first packet is repeated after a second.
    assert took
    # Less than one here; a machine that is busy with other tests takes longer.
    assert max(took) < 2000, found


def test_nobody_elsewhere_speaks_in_a_gateway_s_name(tmp_path: Path) -> None:
    """Not to the one that has the address either, which has sent packets to that other one."""
    own = fleet({"gateway": {"virtual_ip": "192.0.2.9"}})["gw1"]
    assert own.virtual == FIRST
    (tmp_path / "firewall.nft").write_text(rules(own, [22], AROUND))
    (tmp_path / "forges.py").write_text(_FORGES)
    found = inside(
        tmp_path,
        """
        nsenter --net=/run/netns/gw1 nft -f firewall.nft
        start 1; until_held gw1 20
        number=$(sed -n 's/.*virtual_router_id //p' conf.1)
        for hops in 254 255; do
            rm -f said; lost=
            { nsenter --net=/run/netns/gw2 python3 forges.py $number $hops; touch said; } &
            until [ -e said ]; do [ "$(holders)" = " gw1" ] || lost=lost; sleep 0.05; done
            wait $!; echo "after $hops: $lost"; until_held gw1 20
        done
        """,
    )
    assert "after 254: \n" in found
    assert "after 255: lost\n" in found


def test_keepalived_says_what_it_cannot_read(tmp_path: Path) -> None:
    """The command of deploys, which works around Debian 12's."""
    keepalived = f'LD_LIBRARY_PATH=$libraries "{program("keepalived")}" --config-test'
    test = VALIDATE.replace("keepalived --config-test", keepalived)
    found = inside(
        tmp_path,
        f"""
        ip link set wire name eth0; mount -o remount,rw /run
        cp conf.1 {KEEPALIVED_CONF}; ( {test} ) && echo accepted
        sed -i s/advert_int/advertint/ {KEEPALIVED_CONF}; ( {test} ) 2>&1 || echo refused
        """,
    )
    assert found.startswith("accepted\n")
    assert "Unknown keyword 'advertint'" in found
    assert found.endswith("refused\n")


def test_what_gateways_say_has_passed_no_router(tmp_path: Path) -> None:
    """Over IPv6 as well, where keepalived would say it as anything else: their firewalls take no
    other."""
    six = replace(
        FIRST,
        address=ip_address("2001:db8::9"),
        own=ip_address("2001:db8::1"),
        peers=(ip_address("2001:db8::2"),),
    )
    (tmp_path / "conf.six").write_text(configuration(six, "eth0"))
    (tmp_path / "listen.py").write_text(
        "import socket\n"
        "wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))\n"
        "wire.settimeout(20)\n"
        "found = set()\n"
        "while len(found) < 2:\n"
        "    packet = wire.recv(2000)\n"
        "    kind = packet[12:14].hex()\n"
        "    if kind == '0800' and packet[23] == 112: found.add((4, packet[22]))\n"
        "    if kind == '86dd' and packet[20] == 112: found.add((6, packet[21]))\n"
        "print(sorted(found))\n"
    )
    found = inside(
        tmp_path,
        """
        sed 's/^vrrp_instance gateway/&-six/' conf.six | sed -n '/^vrrp_instance/,$p' >>conf.1
        for n in 1 2; do ip -n gw$n address add 2001:db8::$n/64 dev eth0 nodad; done
        start 1; nsenter --net=/run/netns/gw2 python3 listen.py
        """,
    )
    assert found == "[(4, 255), (6, 255)]\n"
