"""What lab hosts would get from the internet, served on the bridge's address only."""

from __future__ import annotations

import shutil
import socket
import ssl
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from lab import archive, ca, image, model, processes
from lab.layout import (
    APT_CACHE,
    APT_PROXY_PORT,
    ARCHIVE_NAME,
    BRIDGE_V4,
    CACHE,
    HUB_CDN_NAME,
    HUB_NAME,
    HUB_PORT,
    HUB_TOKENS,
    REGISTRY_NAME,
    REGISTRY_PORT,
    STATE,
)

_ADDRESS = str(BRIDGE_V4.ip)
NAMES = ("apt-proxy", "archive", "registry", "hub")
#: Those that tests of faults start for themselves, each with a folder of this name in the lab's
#: state, and leave if the lab is kept.
REGISTRIES_OF_FAULTS = ("registry-next", "registry-wrong")
_ROOT = Path(__file__).resolve().parent.parent


def up(releases: Iterable[str] = ("trixie",)) -> None:
    """Start all services that do not run, and wait until they answer.

    :param releases: of Debian, those that the archive has to serve.
    :raises RuntimeError: one does not; the text names its log.
    """
    _start_apt_proxy()
    chain, key = ca.certificate(ARCHIVE_NAME)
    folder = STATE / "archive"
    folder.mkdir(parents=True, exist_ok=True)
    for release in {"trixie", *releases}:
        _link(folder / release, archive.build(release))
    processes.start(
        "archive",
        [sys.executable, "-m", "lab.archive_server", folder, _ADDRESS, "443", chain, key],
        env={"PYTHONPATH": str(_ROOT)},
    )
    _start_registry()
    _start_hub()
    for name, port in zip(NAMES, (APT_PROXY_PORT, 443, REGISTRY_PORT, HUB_PORT), strict=True):
        _wait(name, port)


def down() -> None:
    """Stop all services."""
    for name in (*NAMES, *REGISTRIES_OF_FAULTS):
        processes.stop(name)
    for name in REGISTRIES_OF_FAULTS:
        shutil.rmtree(STATE / name, ignore_errors=True)


def apt_proxy_alone() -> None:
    """Only what building the base system needs."""
    _start_apt_proxy()
    _wait("apt-proxy", APT_PROXY_PORT)


def _start_apt_proxy() -> None:
    """apt-cacher-ng, so that hosts reach Debian's mirrors through this machine and only those."""
    config = STATE / "apt-cacher-ng"
    config.mkdir(parents=True, exist_ok=True)
    if not APT_CACHE.exists() and (CACHE / "apt").exists():
        shutil.copytree(CACHE / "apt", APT_CACHE, ignore=shutil.ignore_patterns("_xstore"))
    APT_CACHE.mkdir(parents=True, exist_ok=True)
    settings = {
        "BindAddress": _ADDRESS,
        "Port": APT_PROXY_PORT,
        "CacheDir": APT_CACHE,
        "LogDir": config,
        "SupportDir": "/usr/lib/apt-cacher-ng",
        "SocketPath": config / "socket",
        "PidFile": config / "pid",
        "ForeGround": 1,
        "ExThreshold": 30,
    }
    lines = [f"{name}: {value}\n" for name, value in settings.items()]
    (config / "acng.conf").write_text("".join(lines))
    processes.start("apt-proxy", ["/usr/sbin/apt-cacher-ng", "-c", config])


def _link(path: Path, target: Path) -> None:
    """A link that appears, or changes, under a running server."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.rename(path)


def _start_registry() -> None:
    start_registry("registry", image.build(), REGISTRY_PORT, STATE / "registry.yml")


def start_registry(name: str, storage: Path, port: int, config: Path) -> None:
    """Debian's docker-registry over a storage that images were pushed into, which it only reads.

    :param config: where its configuration is written.
    """
    chain, key = ca.certificate(REGISTRY_NAME)
    config.write_text(
        "version: 0.1\n"
        "log: {level: warn}\n"
        f"storage: {{filesystem: {{rootdirectory: {storage}}}, maintenance:"
        " {readonly: {enabled: true}}}\n"
        f"http: {{addr: '{_ADDRESS}:{port}', tls: {{certificate: {chain}, key: {key}}}}}\n"
    )
    processes.start(name, ["/usr/bin/docker-registry", "serve", config])


def _start_hub() -> None:
    """The lab's models, as the Hugging Face hub would serve them."""
    chain, key = ca.certificate(HUB_NAME, HUB_CDN_NAME)
    cdn = f"https://{HUB_CDN_NAME}:{HUB_PORT}"
    words: list[str | Path] = [model.build(), HUB_TOKENS, cdn, _ADDRESS, str(HUB_PORT), chain, key]
    processes.start(
        "hub", [sys.executable, "-m", "lab.hub", *words], env={"PYTHONPATH": str(_ROOT)}
    )


def _wait(name: str, port: int) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((_ADDRESS, port), timeout=1):
                return
        except (OSError, ssl.SSLError):
            if processes.alive(name) is None:
                break
            time.sleep(0.1)
    raise RuntimeError(
        f"{name} does not answer on {_ADDRESS}:{port}; see {processes.LOGS}/{name}.log"
    )
