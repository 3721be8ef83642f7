"""The firewall that a host really has, and the SSH ports that it must leave open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host import systemctl
from vllm_hosts.host.firewall import Surroundings
from vllm_hosts.host.sockets import LISTENING, read

#: Without counters, and without the addresses that a set has collected.
LISTING = "nft -s -t list table inet vllm_hosts"
#: How the SHA-256 of nothing begins.
_NOTHING = "e3b0c44298fc1c14"


@dataclass(frozen=True)
class Loaded:
    """``in_force``: the live table is exactly what the rules file makes of an empty ruleset."""

    in_force: bool
    enabled: bool
    active: bool


class FirewallLoaded(HostFact[Loaded]):
    """Compares the live table with the file, loaded into a network namespace of its own."""

    what = "the firewall"
    steady = True

    def command(self, rules: str, unit: str) -> str:
        listing = LISTING
        return ending(
            f"""
            echo '== live'; {listing} 2>/dev/null | sha256sum
            echo '== file'; unshare -n sh -c 'nft -f {rules} && {listing}' 2>/dev/null | sha256sum
            echo '== rules'; [ -s {rules} ] && command -v nft >/dev/null && echo present
            {systemctl.query(unit)}
            """
        )

    def parse(self, lines: list[str]) -> Loaded:
        parts = sections(lines)
        [live], [file] = parts["live"], parts["file"]
        return Loaded(
            # Where nft cannot list anything, both are the digest of nothing.
            in_force=parts["rules"] == ["present"]
            and live == file
            and not live.startswith(_NOTHING),
            enabled=systemctl.enabled(parts["enabled"]),
            active=systemctl.active(parts["active"]).runs,
        )


class SshPorts(HostFact[tuple[int, ...]]):
    """TCP ports on which sshd, or systemd in its place, accepts connections. Never empty.

    Any user can call a program sshd, and sessions of the real one listen for their users: only what
    root listens on beyond loopback, and sshd's own configuration names, is a way in.
    """

    what = "sshd's ports"
    steady = True

    def command(self) -> str:
        return ending(
            f"""
            echo '== listeners'; {LISTENING}
            # It needs the folder that systemd makes when it starts the service.
            echo '== configured'; mkdir -p /run/sshd; sshd -T 2>/dev/null | sed -n 's/^port //p'
            echo '== socket'
            ! systemctl -q is-active ssh.socket || systemctl show -p Listen --value ssh.socket
            """
        )

    def parse(self, lines: list[str]) -> tuple[int, ...]:
        parts = sections(lines)
        configured = {int(line) for line in parts["configured"]}
        ports = set()
        for socket in read(parts["listeners"]):
            root_s = socket.protocol == "tcp" and socket.uid == 0
            if root_s and socket.shared_by("sshd") and not socket.loopback:
                ports |= {socket.port} & configured
        # Ubuntu 24.04 lets systemd hold the socket until somebody connects.
        for line in parts["socket"]:
            address, _, kind = line.partition(" ")
            if kind == "(Stream)":
                ports.add(int(address.rpartition(":")[2]))
        if not ports:
            raise HostError(
                "no sshd that runs as root listens where its configuration says (sshd -T), so a"
                " firewall could lock everybody out; is SSH served by something other than OpenSSH?"
                " A machine without SSH gets it with: apt install openssh-server"
            )
        return tuple(sorted(ports))


class HostSurroundings(HostFact[Surroundings]):
    """nginx's user, and the bridges that lead outside: by a real card, or the default route."""

    what = "the host's bridges and nginx's user"
    steady = True

    def command(self, system: str = "/sys/class/net", conf: str = "/etc/nginx/nginx.conf") -> str:
        return ending(
            f"""
            echo '== edge user'
            user=$(sed -n 's/^[[:space:]]*user[[:space:]]\\{{1,\\}}\\([^;[:space:]]*\\).*/\\1/p' \
                {conf} 2>/dev/null | head -n 1)
            id -u "${{user:-www-data}}" || exit 1
            echo '== uplinks'
            for place in {system}/*/bridge; do
                [ -d "$place" ] || continue
                place=${{place%/bridge}}; name=${{place##*/}}; outside=
                for port in "$place"/brif/*; do
                    port={system}/${{port##*/}}
                    [ ! -e "$port/device" ] || outside=yes
                    # Bonds and VLANs stand on another interface.
                    for below in "$port"/lower_*; do [ ! -e "$below" ] || outside=yes; done
                done
                [ -z "$(ip route show default dev "$name" 2>/dev/null)" ] || outside=yes
                [ -z "$(ip -6 route show default dev "$name" 2>/dev/null)" ] || outside=yes
                [ -z "$outside" ] || echo "$name"
            done
            """
        )

    def parse(self, lines: list[str]) -> Surroundings:
        parts = sections(lines)
        return Surroundings(int(parts["edge user"][0]), tuple(sorted(parts["uplinks"])))


@dataclass(frozen=True)
class Others:
    """Other firewalls that are active on the host, by name."""

    names: tuple[str, ...]

    def sentences(self, ports: Sequence[int]) -> list[str]:
        """What to do about each, for people."""
        wanted = " and ".join(f"{port}/tcp" for port in ports)
        how = {
            "ufw": "; ".join(f"ufw allow {port}/tcp" for port in ports),
            "firewalld": "; ".join(
                [f"firewall-cmd --permanent --add-port={p}/tcp" for p in ports]
                + ["firewall-cmd --reload"]
            ),
        }
        return [
            f"{name} is active too and stays as it is: it has to allow {wanted} itself"
            f" ({how[name]}); a packet passes only if both allow it"
            for name in self.names
        ]


class OtherFirewalls(HostFact[Others]):
    """ufw and firewalld, where they are active."""

    what = "other firewalls"
    steady = True

    def command(self) -> str:
        return ending(
            """
            echo '== active'
            ! grep -qs '^ENABLED=yes' /etc/ufw/ufw.conf || echo ufw
            ! systemctl -q is-active firewalld.service || echo firewalld
            """
        )

    def parse(self, lines: list[str]) -> Others:
        found = tuple(sections(lines)["active"])
        if odd := set(found) - {"ufw", "firewalld"}:
            raise ValueError(f"{sorted(odd)[0][:200]!r} is not a known firewall")
        return Others(found)
