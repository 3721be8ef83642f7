"""Lab hosts: made from a base system, booted with systemd, reset and stopped."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from lab import base, ca, image_kept, layout, model, network, recipe, services
from lab.file_system import make, make_keys, write_known_hosts
from lab.layout import NEIGHBOUR, STATE, Host
from lab.nspawn import FOLDER, boot, stop, stop_strays
from lab.nspawn import INIT as INIT
from lab.nspawn import alive as alive
from lab.nspawn import process_tree as process_tree
from lab.nspawn import root as root
from lab.nspawn import run as run

_LIST = STATE / "hosts.json"


def up(
    count: int, further: Sequence[str] = (), gateways: int = 0, *, with_image: bool = False
) -> list[str]:
    """Bring up ``count`` GPU hosts and the neighbour, with the services they need.

    What runs is left alone, what a crash left behind is repaired.

    :param further: of ``layout.FURTHER``, what to bring up besides.
    :param gateways: how many hosts without cards to bring up besides.
    :param with_image: give new hosts the agents' image, if it is kept (image_kept.py).
    :return: names of the hosts that are new.
    :raises RuntimeError: something does not come up; the text says what and where its log is.
    """
    with _locked():
        recipe.ensure_packages(base.MACHINE_PACKAGES)
        network.up()
        ca.prepare()
        wanted = _wanted(count, further, gateways)
        services.up(found.release for found in wanted)
        make_keys()
        _LIST.write_text(json.dumps([found.name for found in wanted]))
        write_known_hosts(wanted)
        tars = _tars(wanted)
        folder = model.build()
        with ThreadPoolExecutor(max_workers=2) as pool:
            new = pool.map(lambda found: _bring_up(found, tars, folder, with_image), wanted)
            return [found.name for found, made in zip(wanted, new, strict=True) if made]


def down() -> None:
    """Stop everything and remove the hosts. What is cached stays."""
    with _locked():
        for name in _known():
            stop(name)
            shutil.rmtree(FOLDER / name, ignore_errors=True)
        stop_strays()
        services.down()
        network.down()
        _LIST.unlink(missing_ok=True)


def remove(names: Sequence[str]) -> None:
    """Stop hosts for good, and forget them. The others run on."""
    with _locked():
        for name in names:
            stop(name)
            shutil.rmtree(FOLDER / name, ignore_errors=True)
        left = [name for name in _known() if name not in names]
        _LIST.write_text(json.dumps(left))
        write_known_hosts([host(name) for name in left])


def reset(names: Sequence[str] = (), *, with_image: bool = False) -> None:
    """Return hosts (all, if none is named) to their fresh state.

    :param with_image: give them the agents' image, if it is kept.
    """
    chosen = list(names) or _known()
    with _locked():
        _require_up()
        tars = _tars([host(name) for name in chosen])
        folder = model.build()

        def again(name: str) -> None:
            stop(name)
            shutil.rmtree(FOLDER / name, ignore_errors=True)
            _bring_up(host(name), tars, folder, with_image)

        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(again, chosen))


def restart(name: str) -> None:
    """Stop a host and boot it again, as it is."""
    with _locked():
        stop(name)
        boot(host(name), root(name))


def host(name: str) -> Host:
    """A host by name.

    :raises KeyError: the lab has no such host.
    """
    if name == NEIGHBOUR.name:
        return NEIGHBOUR
    every = [*layout.gpu_hosts(9), *layout.gateways(9)]
    return (layout.FURTHER | {found.name: found for found in every})[name]


def gpu_host_names() -> list[str]:
    """The GPU hosts that the lab has; the usual two where it was never up."""
    return [name for name in _known() if host(name).gpus] or ["gpu1", "gpu2"]


def gateway_names() -> list[str]:
    """The gateways that the lab has."""
    return [name for name in _known() if name.startswith("gw")]


def are(count: int, further: Sequence[str] = (), gateways: int = 0) -> bool:
    """Whether the lab has exactly the hosts that ``up`` would bring up."""
    return _known() == [found.name for found in _wanted(count, further, gateways)]


def is_up() -> bool:
    """Whether all hosts that the lab should have run."""
    names = _known()
    return bool(names) and network.is_up() and all(alive(name) for name in names)


def _wanted(count: int, further: Sequence[str], gateways: int) -> list[Host]:
    return [
        *layout.gpu_hosts(count),
        *(layout.FURTHER[name] for name in dict.fromkeys(further)),
        *layout.gateways(gateways),
        NEIGHBOUR,
    ]


def _tars(wanted: Sequence[Host]) -> dict[str, Path]:
    """The base system of each host, by name."""
    return {found.name: base.build(found is NEIGHBOUR, found.release) for found in wanted}


def _bring_up(found: Host, tars: dict[str, Path], models: Path, with_image: bool = False) -> bool:
    """Boot a host. Whether it is new."""
    if alive(found.name):
        return False
    started = time.monotonic()
    folder = FOLDER / found.name
    complete = folder / "complete"
    stop_strays(found.name)
    network.drop_link(found.name)
    if new := not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        make(found, folder / "root", tars[found.name], models)
        if with_image and found.gpus:
            image_kept.give(folder / "root")
        complete.touch()
    boot(found, folder / "root")
    recipe.say(f"{found.name} is up at {found.ipv4} after {time.monotonic() - started:.1f} s")
    return new


def _known() -> list[str]:
    try:
        names: list[str] = json.loads(_LIST.read_text())
    except (OSError, ValueError):
        return []
    return names


def _require_up() -> None:
    if not network.is_up():
        raise RuntimeError("the lab is not up; start it with: python -m lab up")


@contextmanager
def _locked() -> Iterator[None]:
    """One command at a time changes the lab."""
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
