"""`vllm-hosts verify`: every promise, checked by the suite."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

import click

from vllm_hosts.cli.choice import host_option
from vllm_hosts.cli.command import Command, Exit
from vllm_hosts.cli.common import inventory_argument, only, opened
from vllm_hosts.errors import SettingsError
from vllm_hosts.verify.promises import promises

#: How pytest ends where it knows an option not.
_USAGE = 4
_SUITE = Path(__file__).resolve().parents[1] / "suite"


@click.command(cls=Command, context_settings={"ignore_unknown_options": True})
@inventory_argument
@host_option
@click.option(
    "--promise",
    "chosen",
    multiple=True,
    type=click.Choice(list(promises())),
    metavar="ID",
    help="Check only this promise, such as NET-01. May be repeated.",
)
@click.option(
    "--skip",
    "skipped",
    multiple=True,
    type=click.Choice(list(promises())),
    metavar="ID",
    help="Skip this promise. May be repeated.",
)
@click.option(
    "--ports",
    default="1-65535",
    metavar="FIRST-LAST",
    show_default=True,
    help="TCP ports to scan from outside.",
)
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write report.html, report.json and junit.xml to DIR.",
)
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def verify(
    inventory: Path,
    hosts: tuple[str, ...],
    chosen: tuple[str, ...],
    skipped: tuple[str, ...],
    ports: str,
    report: Path | None,
    pytest_arguments: tuple[str, ...],
) -> None:
    """Verify every host independently, from inside and from outside.

    From outside it acts as a client and as a stranger. docs/security-model.md lists the promises.
    Exit code 0 only if every promise was checked and is kept. Further arguments go to pytest.

    Example: vllm-hosts verify inventory/prod.py --report report
    """
    project = opened(inventory)
    only(project, hosts)
    if report is not None:
        _check_writable(report)
    first, _, last = ports.partition("-")
    if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last) <= 65535):
        raise click.UsageError(f"{ports!r} is not a range of ports; write it as 1-65535")
    with suppress(SettingsError):
        # A clone with an encrypted store has no copy of the certificate that clients need.
        project.store.authority.refresh_file()
    command = [sys.executable, "-P", "-m", "pytest", str(_SUITE), "-p", "no:cacheprovider"]
    command += [
        f"--config-file={_SUITE / 'pytest.ini'}",
        "--no-header",
        "--tb=no",
        "-rN",
        "-o",
        "verbosity_assertions=2",
        f"--inventory={inventory.resolve()}",
    ]
    command += [f"--only-host={name}" for name in hosts]
    left = [identifier for identifier in chosen or promises() if identifier not in skipped]
    if not left:
        raise click.UsageError("every promise that --promise names is skipped; nothing is left")
    command += [f"--only-promise={identifier}" for identifier in left]
    command.append(f"--ports={ports}")
    if report is not None:
        command += [f"--report={report.resolve()}", f"--junitxml={report.resolve() / 'junit.xml'}"]
    code = subprocess.run([*command, *pytest_arguments], check=False).returncode
    if code == _USAGE:
        sys.exit(Exit.MISUSE)
    # Its other codes above 1 mean that nothing, or not everything, was checked.
    sys.exit(Exit.OK if code == 0 else Exit.WRONG)


def _check_writable(folder: Path) -> None:
    """Minutes before the report is written.

    :raises click.UsageError: this user cannot write it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise click.UsageError(f"--report {folder} cannot be written: {error.strerror}") from error
