"""`vllm-hosts usage`: how many tokens went through the edges, by client, model or day."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from vllm_hosts.cli.choice import choose, host_option
from vllm_hosts.cli.command import Command, Exit
from vllm_hosts.cli.common import inventory_argument, say_errors
from vllm_hosts.connect.connections import ask_host
from vllm_hosts.errors import HostError
from vllm_hosts.facts.token_usage import TokenUsage
from vllm_hosts.host.access_log import KEYS, LIMIT, Counts, TokenSums, together

_COLUMNS = tuple(field.name for field in fields(Counts))


class _Since(click.ParamType[str]):
    name = "day"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """A day, as the logs have it."""
        if value.endswith("d") and value[:-1].isdecimal() and len(value) <= 5:
            return (datetime.now(UTC) - timedelta(days=int(value[:-1]))).date().isoformat()
        try:
            return datetime.strptime(value, "%Y-%m-%d").date().isoformat()
        except ValueError:
            self.fail(f"{value!r} is neither a day such as 2026-11-01 nor a number such as 30d")


@click.command(cls=Command, problems="The usage cannot be shown:")
@inventory_argument
@host_option
@click.option(
    "--by",
    type=click.Choice(list(KEYS)),
    default="client",
    show_default=True,
    help="What to add up by.",
)
@click.option(
    "--since",
    type=_Since(),
    metavar="DAY",
    help="From this day on: 2026-11-01, or 30d for the last 30 days. Days are those of each host's"
    " clock.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, an object.")
def usage(
    inventory: Path,
    hosts: tuple[str, ...],
    by: str,
    since: str | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Add up the tokens that went through the edges. Changes no host.

    Each host adds up its own access logs, as far back as they are kept (edge.log_max_files).
    Requests whose tokens are not known are counted apart. What comes through a gateway is counted
    there, and not at the host that answers.

    Exit code 1 if a host did not answer: its tokens are missing then.

    Example: vllm-hosts usage inventory/prod.py --by model --since 30d
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other; leave one out")
    chosen = choose(inventory, hosts, None, gateways=True)
    found = chosen.connections.each(
        chosen.agents, lambda _: ask_host(TokenUsage, by=by, since=since or ""), limit=LIMIT + 60.0
    )
    read = {host: one for host, one in found.items() if isinstance(one, TokenSums)}
    sums = _sorted(together(read.values()), by)
    if as_json:
        click.echo(json.dumps(_as_json(by, sums, found), indent=2))
    elif as_csv:
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow([by, *_COLUMNS])
        rows.writerows([key, *asdict(counts).values()] for key, counts in sums.items())
    else:
        _show(by, sums, read)
    if say_errors(found):
        sys.exit(Exit.WRONG)


def _sorted(sums: Mapping[str, Counts], by: str) -> dict[str, Counts]:
    """Days in their order, others with most tokens first."""
    if by == "day":
        return dict(sorted(sums.items()))

    def tokens(item: tuple[str, Counts]) -> tuple[int, str]:
        return -(item[1].prompt_tokens + item[1].completion_tokens), item[0]

    return dict(sorted(sums.items(), key=tokens))


def _show(by: str, sums: Mapping[str, Counts], read: Mapping[str, TokenSums]) -> None:
    heads = [by, *(name.removesuffix("_tokens") for name in _COLUMNS)]
    whole = sum(sums.values(), Counts())
    rows = [
        [key or "unknown", *(f"{number:,}" for number in asdict(counts).values())]
        for key, counts in [*sums.items(), ("all", whole)]
    ]
    widths = [max(len(row[place]) for row in [heads, *rows]) for place in range(len(heads))]
    for number, row in enumerate([heads, *rows]):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        click.secho("  ".join(cells), bold=number == 0)
    for host, one in read.items():
        click.echo(f"{host}: {f'logs since {one.since}' if one.since else 'no requests yet'}")


def _as_json(
    by: str, sums: Mapping[str, Counts], found: Mapping[str, TokenSums | HostError]
) -> dict[str, object]:
    """The names here are the names in the JSON, and stay."""
    return {
        "by": by,
        "usage": [{by: key, **asdict(counts)} for key, counts in sums.items()],
        "hosts": [
            {
                "host": host,
                "logs_since": one.since if isinstance(one, TokenSums) else None,
                "error": str(one) if isinstance(one, HostError) else None,
            }
            for host, one in found.items()
        ],
    }
