"""What a gateway is among, where it shares an address with others, and whether it has it."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host import systemctl, virtual_address
from vllm_hosts.host.paths import KEEPALIVED_CONF, KEEPALIVED_UNIT
from vllm_hosts.host.virtual_address import Ground, interfaces, neighbours, routers


class VirtualGround(HostFact[Ground]):
    """A gateway's networks; and before its first deploy with this address, who answers for it.

    A datagram to a port where nothing is makes the kernel find out, without any program.
    """

    what = "the gateway's network addresses"
    steady = True
    seconds = 60

    def command(self, address: str, peers: list[str]) -> str:
        return ending(
            f"""
            echo '== addresses'; {virtual_address.ADDRESSES}
            if grep -qsF {quote(f"{address}/")} {KEEPALIVED_CONF}; then
                echo '== ours'; echo yes
            else
                case "$(ip route get {quote(address)} 2>/dev/null)" in
                    '' | *' via '*) ;;
                    *)
                        for to in {" ".join(map(quote, (address, *peers)))}; do
                            timeout 2 bash -c "echo >/dev/udp/$to/9" 2>/dev/null
                        done
                        sleep 1
                        ;;
                esac
                echo '== neighbours'; {virtual_address.NEIGHBOURS} 2>/dev/null
                echo '== routers'; {virtual_address.ROUTERS}
            fi
            """
        )

    def parse(self, lines: list[str]) -> Ground:
        parts = sections(lines)
        return Ground(
            interfaces=interfaces("\n".join(parts["addresses"])),
            ours=parts.get("ours") == ["yes"],
            neighbours=neighbours("\n".join(parts.get("neighbours", []))),
            routers=routers(parts.get("routers", [])),
        )


@dataclass(frozen=True)
class VirtualHeld:
    """Whether a gateway has the virtual address now, and whether its keepalived runs."""

    held: bool
    runs: bool


class VirtualState(HostFact[VirtualHeld]):
    """The same for one gateway; the others have to be asked as well."""

    what = "who has the virtual address"

    def command(self, address: str) -> str:
        return ending(
            f"""
            echo '== addresses'; {virtual_address.ADDRESSES}
            echo '== address {address}'
            echo '== active'; {systemctl.IS_ACTIVE} {KEEPALIVED_UNIT} 2>/dev/null
            """
        )

    def parse(self, lines: list[str]) -> VirtualHeld:
        parts = sections(lines)
        [address] = [one.removeprefix("address ") for one in parts if one.startswith("address ")]
        found = interfaces("\n".join(parts["addresses"]))
        here = [one for link in found for one in link.addresses]
        return VirtualHeld(
            held=any(str(one.ip) == address for one in here),
            runs=systemctl.active(parts["active"]).runs,
        )
