"""The lab's command line: `python -m lab --help`."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import click

from lab import bare, gpu, hosts, layout, network, processes, recipe, services
from lab import clean as cleaning


@click.group(help="Disposable real hosts on this machine: Debian, systemd, SSH. Needs root.")
def main() -> None:
    if os.geteuid() != 0:
        raise click.ClickException("the lab makes network namespaces and mounts; run it as root")


@main.command()
@click.option(
    "--hosts",
    "count",
    type=click.IntRange(1, 9),
    default=2,
    show_default=True,
    help="How many GPU hosts.",
)
@click.option(
    "--with",
    "further",
    type=click.Choice(list(layout.FURTHER)),
    multiple=True,
    help="An additional host; its system is built if needed. May be repeated.",
)
@click.option(
    "--gateways",
    type=click.IntRange(0, 9),
    default=0,
    show_default=True,
    help="How many gateways, which have no GPUs. See inventory/lab_fleet.py.",
)
def up(count: int, further: tuple[str, ...], gateways: int) -> None:
    """Boot the hosts and what serves them; repair what is half there."""
    if hosts.is_up() and hosts.are(count, further, gateways) and _services_run():
        recipe.say("is up")
        return
    started = time.monotonic()
    try:
        hosts.up(count, further, gateways)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from error
    recipe.say(f"up after {time.monotonic() - started:.0f} s")


@main.command()
def down() -> None:
    """Stop everything; leave no process, bridge, mount or rule behind. Caches and state stay.

    Without VLLM_HOSTS_LAB_NUMBER other labs of this machine are stopped as well.
    """
    hosts.down()
    for number in network.others() if "VLLM_HOSTS_LAB_NUMBER" not in os.environ else ():
        again = os.environ | {"VLLM_HOSTS_LAB_NUMBER": str(number)}
        subprocess.run([sys.executable, "-m", "lab", "down"], env=again, check=True)
    recipe.say("down; caches and state stay, and make clean-cache removes them")


@main.command()
@click.option("--old", is_flag=True, help="Remove only builds that newer ones have replaced.")
def clean(old: bool) -> None:
    """Remove the lab's caches and state, about 6 GB. The lab has to be down."""
    sys.exit(cleaning.main(old))


@main.command()
def status() -> None:
    """Say what runs. Exit code 0: everything does."""
    for name in [*hosts.gpu_host_names(), *hosts.gateway_names(), layout.NEIGHBOUR.name]:
        found = hosts.host(name)
        state = "up" if hosts.alive(name) else "down"
        click.echo(f"{name:10} {state:5} {found.ipv4!s:12} {found.ipv6!s:20} {found.ssh_user}")
    for name in services.NAMES:
        click.echo(f"{name:10} {'up' if processes.alive(name) else 'down'}")
    click.echo(f"{layout.BRIDGE:10} {'up' if network.is_up() else 'down'}")
    sys.exit(0 if hosts.is_up() and _services_run() else 1)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(name: str, command: tuple[str, ...]) -> None:
    """Log in to a host as deploys do, or run a command there."""
    try:
        found = hosts.host(name)
    except KeyError:
        raise click.ClickException(f"the lab has no host {name!r}") from None
    if not hosts.alive(name):
        raise click.ClickException(f"{name} does not run; start it with: python -m lab up")
    words = ["ssh", "-i", str(layout.SSH_KEY), "-o", f"UserKnownHostsFile={layout.KNOWN_HOSTS}"]
    words += ["-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes"]
    os.execvp("ssh", [*words, f"{found.ssh_user}@{found.ipv4}", *command])


@main.command()
@click.argument("names", nargs=-1)
def reset(names: tuple[str, ...]) -> None:
    """Return hosts to their fresh state: all of them, or those named."""
    try:
        hosts.reset(list(names))
    except (RuntimeError, KeyError) as error:
        raise click.ClickException(str(error)) from error


@main.command(name="gpu")
@click.argument("name")
@click.option("--bare", "taken", is_flag=True, help="Remove the driver.")
@click.option("--cards", type=click.Choice(list(gpu.CARDS)), default="h200", show_default=True)
@click.option("--mode", type=click.Choice(["works", *gpu.MODES]), help="How the driver fails.")
def change_gpu(name: str, taken: bool, cards: str, mode: str | None) -> None:
    """Give a host other cards, take its driver off, or make its driver fail."""
    if not hosts.alive(name):
        raise click.ClickException(f"{name} does not run; start it with: python -m lab up")
    if taken:
        bare.without_driver(name, cards)
    else:
        gpu.write_cards(hosts.root(name), hosts.host(name).gpus, name, cards)
    if mode:
        bare.failing(name, "" if mode == "works" else mode)


def _services_run() -> bool:
    return all(processes.alive(name) for name in services.NAMES)


if __name__ == "__main__":
    main()
