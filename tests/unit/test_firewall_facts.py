"""What a host's own programs say of its firewall and of SSH, as their shell commands read it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.here import Here
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END, HostFact
from vllm_hosts.facts.firewall import (
    FirewallLoaded,
    HostSurroundings,
    Loaded,
    OtherFirewalls,
    Others,
    SshPorts,
)
from vllm_hosts.host.firewall import Surroundings

RULES = "table inet vllm_hosts {\n}"
UNIT = "vllm-hosts-firewall.service"
#: systemctl that prints what files of its folder say, by its own words.
SYSTEMCTL = """
case "$1 $2" in
    'is-active vllm-hosts-firewall.service') cat "$0.active";;
    'is-enabled vllm-hosts-firewall.service') cat "$0.enabled";;
    '-q is-active') [ -e "$0.$3" ];;
    'show -p') [ "$*" = 'show -p Listen --value ssh.socket' ] && cat "$0.listen";;
esac
"""


class Machine:
    """This machine, with stand-ins for what it has no right to ask or does not have."""

    def __init__(self, folder: Path) -> None:
        self.here, self.folder = Here(folder), folder
        self.here.program("systemctl", SYSTEMCTL)
        self.says("systemctl.active", "active\n")
        self.says("systemctl.enabled", "enabled\n")

    def says(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def output(self, script: str) -> list[str]:
        for path in ("/run/sshd", "/etc/ufw"):
            script = script.replace(path, f"{self.folder}{path}")
        return self.here.check_output(script).splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# Whether the firewall is what the file says.


class Nft:
    """An nft for which the live table and one from a file are two texts."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.rules = machine, machine.folder / "rules.nft"
        machine.here.program(
            "nft",
            'case "$*" in\n'
            "    '-s -t list table inet vllm_hosts')\n"
            '        [ -z "$APART" ] || { cat "$0.loaded"; exit; }; cat "$0.live";;\n'
            f'    \'-f {self.rules}\') [ -n "$APART" ] || exit 9; cp {self.rules} "$0.loaded";;\n'
            "    *) exit 8;;\n"
            "esac",
        )
        # Another network namespace: what is loaded there changes nothing here.
        machine.here.program("unshare", '[ "$1" = -n ] || exit 7; shift; APART=yes exec "$@"')
        self.live(RULES)
        self.rules.write_text(RULES)

    def live(self, text: str) -> None:
        self.machine.says("nft.live", text)

    def seen(self) -> Loaded:
        fact = FirewallLoaded()
        return fact.process(self.machine.output(fact.command(str(self.rules), UNIT)))


@pytest.fixture
def nft(machine: Machine) -> Nft:
    return Nft(machine)


WELL = Loaded(in_force=True, enabled=True, active=True)


def test_what_is_loaded_is_what_the_file_makes(nft: Nft) -> None:
    assert nft.seen() == WELL


@pytest.mark.parametrize("live", [RULES.replace("{", "{\nchain x {\n}"), ""])
def test_a_table_that_somebody_changed_or_removed_is_not_in_force(nft: Nft, live: str) -> None:
    nft.live(live)
    assert nft.seen() == replace(WELL, in_force=False)


def test_a_file_that_is_gone_or_empty_is_not_in_force(nft: Nft) -> None:
    """With the live table gone as well: nothing is equal to nothing."""
    nft.live("")
    nft.rules.write_text("")
    assert not nft.seen().in_force
    nft.rules.unlink()
    assert not nft.seen().in_force


def test_rules_that_nft_does_not_load_are_not_in_force(nft: Nft) -> None:
    nft.machine.here.program("unshare", "exit 1")
    nft.live("")
    assert not nft.seen().in_force


def test_a_unit_that_does_not_run_now_or_at_boot(nft: Nft) -> None:
    nft.machine.says("systemctl.active", "failed\n")
    assert nft.seen() == replace(WELL, active=False)
    nft.machine.says("systemctl.active", "active\n")
    nft.machine.says("systemctl.enabled", "disabled\n")
    assert nft.seen() == replace(WELL, enabled=False)


# Where SSH is to be left open.

SOCKET = 'tcp LISTEN 0 128 {} 0.0.0.0:* users:(("{}",pid=1,fd=3)) ino:1 sk:1 <->'


class Sshd:
    """An sshd, and what listens beside it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        machine.here.program("ss", '[ "$*" = -Hltunpe ] && cat "$0.said"')
        # As the real one: without the folder for its privileges it says nothing.
        machine.here.program(
            "sshd",
            f'[ "$*" = -T ] && [ -d {machine.folder}/run/sshd ] || exit 1; echo trouble >&2\n'
            'cat "$0.said"',
        )
        self.says(["0.0.0.0:2222"], ["port 2222", "addressfamily any", "xport 4"])

    def says(self, listens: list[str], configured: list[str], name: str = "sshd") -> None:
        lines = [SOCKET.format(one, name) for one in listens]
        self.machine.says("ss.said", "\n".join(lines) + "\n")
        self.machine.says("sshd.said", "\n".join(configured) + "\n")

    def seen(self) -> tuple[int, ...]:
        fact = SshPorts()
        return fact.process(self.machine.output(fact.command()))


@pytest.fixture
def sshd(machine: Machine) -> Sshd:
    return Sshd(machine)


def test_the_port_that_sshd_has(sshd: Sshd) -> None:
    assert sshd.seen() == (2222,)


def test_all_ports_in_their_order(sshd: Sshd) -> None:
    sshd.says(["0.0.0.0:2222", "[::]:22", "0.0.0.0:4444"], ["port 22", "port 2222", "port 23"])
    assert sshd.seen() == (22, 2222)


def test_systemd_listens_in_its_place(sshd: Sshd) -> None:
    sshd.says(["0.0.0.0:22"], ["port 22"], name="systemd")
    sshd.machine.says("systemctl.listen", "0.0.0.0:22 (Stream)\n[::]:2022 (Stream)\n9 (Datagram)\n")
    with pytest.raises(HostError, match="no sshd that runs as root"):
        sshd.seen()
    sshd.machine.says("systemctl.ssh.socket", "")
    assert sshd.seen() == (22, 2022)


def test_without_an_sshd_nothing_is_closed(sshd: Sshd) -> None:
    sshd.says([], ["port 22"])
    with pytest.raises(HostError) as error:
        sshd.seen()
    assert str(error.value) == (
        "no sshd that runs as root listens where its configuration says (sshd -T), so a firewall"
        " could lock everybody out; is SSH served by something other than OpenSSH? A machine"
        " without SSH gets it with: apt install openssh-server"
    )


@pytest.mark.parametrize(
    "line",
    [
        SOCKET.format("0.0.0.0:22", "sshd").replace("tcp", "udp"),
        SOCKET.format("0.0.0.0:22", "sshd").replace(" ino:1", " uid:1000 ino:1"),
        SOCKET.format("127.0.0.1:22", "sshd"),
        SOCKET.format("0.0.0.0:22", "nginx"),
    ],
)
def test_what_is_no_way_in_by_ssh_opens_no_port(sshd: Sshd, line: str) -> None:
    sshd.says([], ["port 22"])
    sshd.machine.says("ss.said", f"{line}\n")
    with pytest.raises(HostError, match="no sshd"):
        sshd.seen()


# Bridges, and nginx's user.


class Net:
    """Interfaces below a folder, with the routes that ip knows."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.net = machine, machine.folder / "net"
        self.net.mkdir()
        machine.here.program("ip", 'cat "$0.$*" 2>/dev/null')
        self.conf = machine.folder / "nginx.conf"

    def bridge(self, name: str, *ports: str) -> None:
        (self.net / name / "bridge").mkdir(parents=True)
        for port in ports:
            (self.net / name / "brif" / port).mkdir(parents=True)
            (self.net / port).mkdir()

    def seen(self) -> Surroundings:
        fact = HostSurroundings()
        return fact.process(self.machine.output(fact.command(str(self.net), str(self.conf))))


@pytest.fixture
def net(machine: Machine) -> Net:
    return Net(machine)


@pytest.mark.parametrize("version", ["", "-6 "])
def test_a_bridge_with_the_default_route_leads_outside(net: Net, version: str) -> None:
    """Also one whose card cannot be seen, as in a virtual machine's own network."""
    for name in ("br0", "docker0"):
        net.bridge(name, f"veth-{name}")
    (net.net / "eth0").mkdir()
    net.machine.says(f"ip.{version}route show default dev br0", "default via 192.0.2.1\n")
    assert net.seen() == Surroundings(33, ("br0",))


def test_bridges_come_in_their_order(net: Net) -> None:
    for name in ("b", "a"):
        net.bridge(name, f"card-{name}")
        (net.net / f"card-{name}" / "device").mkdir()
    assert net.seen().uplinks == ("a", "b")
    assert HostSurroundings().process(
        ["== edge user", "7", "== uplinks", "b", "a", END]
    ) == Surroundings(7, ("a", "b"))


def test_a_machine_without_bridges(net: Net) -> None:
    net.conf.write_text("\tuser\troot;\nuser daemon;\n")
    assert net.seen() == Surroundings(0, ())


def test_where_a_host_has_them() -> None:
    script = HostSurroundings().command()
    assert "for place in /sys/class/net/*/bridge" in script
    assert " /etc/nginx/nginx.conf " in script


# Firewalls that others run.


def test_other_firewalls_that_are_active(machine: Machine) -> None:
    fact = OtherFirewalls()

    def seen() -> Others:
        return fact.process(machine.output(fact.command()))

    assert seen() == Others(())
    (machine.folder / "etc" / "ufw").mkdir(parents=True)
    machine.says("etc/ufw/ufw.conf", "# ENABLED=yes\nENABLED=no\n")
    assert seen() == Others(())
    machine.says("etc/ufw/ufw.conf", "ENABLED=yes\n")
    assert seen() == Others(("ufw",))
    machine.says("systemctl.firewalld.service", "")
    assert seen() == Others(("ufw", "firewalld"))
    machine.says("etc/ufw/ufw.conf", "")
    assert seen() == Others(("firewalld",))


def test_another_word_is_not_one_of_them() -> None:
    with pytest.raises(HostError, match="'shorewall' is not a known firewall"):
        OtherFirewalls().process(["== active", "ufw", "shorewall", END])


def test_what_to_do_about_them() -> None:
    assert Others(()).sentences([443]) == []
    assert Others(("ufw",)).sentences([443, 80]) == [
        "ufw is active too and stays as it is: it has to allow 443/tcp and 80/tcp itself"
        " (ufw allow 443/tcp; ufw allow 80/tcp); a packet passes only if both allow it"
    ]
    [said] = Others(("firewalld",)).sentences([443])
    assert "(firewall-cmd --permanent --add-port=443/tcp; firewall-cmd --reload)" in said


@pytest.mark.parametrize(
    ("fact", "what"),
    [
        (FirewallLoaded(), "the firewall"),
        (SshPorts(), "sshd's ports"),
        (HostSurroundings(), "the host's bridges and nginx's user"),
        (OtherFirewalls(), "other firewalls"),
    ],
)
def test_an_answer_that_is_cut_short_says_of_what(fact: HostFact[object], what: str) -> None:
    assert fact.steady
    with pytest.raises(HostError, match=f"^{what} could not be read: the answer was cut short$"):
        fact.process(["== active"])
