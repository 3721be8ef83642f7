"""The lab's own network: one bridge, from which nothing is forwarded anywhere."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab.layout import BRIDGE, BRIDGE_V4, BRIDGE_V6, NUMBER

#: Of the bridge; administered locally.
_HARDWARE = f"02:76:6c:6c:6d:{NUMBER:02x}"


def up() -> None:
    """Make the bridge with this machine's addresses, or repair it."""
    if not is_up():
        # Its own: a bridge without one has that of one of its ports, and when this one goes, hosts
        # send to nobody until they ask again, which takes up to a minute.
        _ip("link", "add", BRIDGE, "address", _HARDWARE, "type", "bridge")
    # Without this a fresh IPv6 address cannot be bound to for a second.
    Path(f"/proc/sys/net/ipv6/conf/{BRIDGE}/accept_dad").write_text("0")
    _ip("addr", "replace", str(BRIDGE_V4), "dev", BRIDGE)
    _ip("addr", "replace", str(BRIDGE_V6), "dev", BRIDGE, "nodad")
    _ip("link", "set", BRIDGE, "up")


def down() -> None:
    """Remove the bridge, and links of hosts that were left on it."""
    for name in links():
        _ip("link", "del", name)
    if is_up():
        _ip("link", "del", BRIDGE)


def drop_link(host: str) -> None:
    """Remove a host's link that a crash left behind."""
    if Path(f"/sys/class/net/{link(host)}").exists():
        _ip("link", "del", link(host))


def link(host: str) -> str:
    """This machine's end of a host's link, as systemd-nspawn calls it: after the machine."""
    return f"vb-{host}-{NUMBER}" if NUMBER else f"vb-{host}"


def links() -> list[str]:
    """What is on the bridge."""
    folder = Path(f"/sys/class/net/{BRIDGE}/brif")
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def others() -> list[int]:
    """Numbers of other labs that are up on this machine."""
    found = [path.name for path in Path("/sys/class/net").glob("vllmlab[0-9]")]
    return sorted(int(name[-1]) for name in found if name != BRIDGE)


def is_up() -> bool:
    """Whether the bridge exists. Nothing may be sent to lab addresses while it does not."""
    return Path(f"/sys/class/net/{BRIDGE}").exists()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
