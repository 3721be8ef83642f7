"""The shell script that rehearses the agents of one host. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from shlex import quote

from vllm_hosts.host import fetching
from vllm_hosts.hub.hub_models import Download, HubModel
from vllm_hosts.rehearsal.container import CONTAINERS, MOST, Asked, container, script, words

#: KiB of main memory that have to be free for one rehearsal. 0.7 GiB were measured with vLLM's CPU
#: build; what its CUDA libraries take beside that is read from files, and can be dropped.
ROOM = 3 << 20
#: Seconds for all agents of a host, beside the last one's own; for one model's small files.
_ALL, _FETCHED = 420, 120
#: In the place of an exit code: the container was not started.
LACKING = "lacking"


@dataclass(frozen=True)
class Fetch:
    """Models of which the host lacks files. ``models``: by key."""

    models: Mapping[str, HubModel] = field(default_factory=dict)
    download: Download | None = None


def place(mark: str) -> str:
    """What a rehearsal has on the host while it lasts; in memory, and root's."""
    return f"/run/{CONTAINERS}.{mark[:16]}"


def small_files(mark: str) -> str:
    """Where small files of models are, in the layout of the hub's cache."""
    return f"{place(mark)}/models"


def _fetching(mark: str) -> str:
    """The name of the container that fetches small files."""
    return f"{CONTAINERS}-fetch-{mark[:8]}"


def shell(asked: Sequence[Asked], fetch: Fetch, mark: str) -> str:
    """Shell: rehearse agents; for each a line with its name, how the container ended, its output in
    base64; for each fetched model ``= KEY`` and its commit.

    Whatever an image prints is data here: it can neither end the look nor be taken for another
    agent's answer. Nothing of it stays: where a killed run leaves a container, that ends by itself.
    """
    names = " ".join([*(container(one.agent, mark) for one in asked), _fetching(mark)])
    gone = f"docker rm --force {names} >/dev/null 2>&1 || :"
    if fetch.models:
        gone += f"; {fetching.no_network()}"
    runs = "\n".join(_one(number, one, mark) for number, one in enumerate(asked))
    numbers = " ".join(map(str, range(len(asked))))
    return f"""
        ( umask 077
        find /run -maxdepth 1 -name '{CONTAINERS}.*' -mmin +30 -exec rm -rf {{}} + 2>/dev/null
        work={place(mark)}; mkdir "$work" || exit 1
        trap '{gone}; rm -rf "$work"' EXIT
        trap 'exit 1' HUP INT TERM PIPE
        printf %s {quote(script())} >"$work/script" || exit 1
        {runs}
        at_once=$(($(sed -n 's/^MemAvailable: *\\([0-9]*\\) kB$/\\1/p' /proc/meminfo) / {ROOM}))
        [ $at_once -le "$(nproc)" ] || at_once=$(nproc)
        [ $at_once -gt 0 ] || echo 'less than {ROOM >> 20} GiB of main memory are free' \
            >"$work/lacks-memory"
        {_fetched(fetch, mark) if fetch.models else ":"}
        end=$(($(date +%s) + {_ALL})); running=0
        for number in {numbers}; do
            rehearse_$number >"$work/line-$number" &
            running=$((running + 1))
            [ $running -lt $at_once ] || {{ wait; running=0; }}
        done
        wait
        cat "$work"/commit-* "$work"/line-* 2>/dev/null || : )
    """


def _one(number: int, asked: Asked, mark: str) -> str:
    """Shell: a function that rehearses one agent."""
    name = asked.agent.agent
    given = shlex.join(words(asked.agent, asked.request))
    until = 'while [ -d "$work" ] && [ ! -e "$work/fetched" ]; do sleep 0.2; done'
    return f"""
        rehearse_{number}() {{
            {until if asked.needs else ":"}
            [ "$(date +%s)" -lt "$end" ] ||
                echo 'other agents took the time for it' >"$work/lacks-time"
            for lack in memory time {" ".join(asked.needs)}; do
                [ ! -s "$work/lacks-$lack" ] || {{
                    echo "{name} {LACKING} $(base64 -w 0 <"$work/lacks-$lack")"; return; }}
            done
            {{ timeout -k 10 {asked.request.seconds + 60} {given} \
                <"$work/script" 2>"$work/said-{number}"; echo $? >"$work/code-{number}"; }} |
                head -c {MOST} >"$work/answer-{number}"
            [ -s "$work/answer-{number}" ] ||
                tail -c 600 "$work/said-{number}" >"$work/answer-{number}"
            echo "{name} $(cat "$work/code-{number}") $(base64 -w 0 <"$work/answer-{number}")"
        }}"""


def _fetched(fetch: Fetch, mark: str) -> str:
    """Shell: fetch what models have beside their weights, each with its digest, while agents that
    need none of it are asked about."""
    assert fetch.download is not None
    owner, _, group = fetch.download.user.partition(":")
    lines = [
        f'printf %s {quote(fetching.PROGRAM.read_text())} >"$work/fetch"',
        f"mkdir -m 0750 {small_files(mark)}; chown {owner}:{group} {small_files(mark)}",
        fetching.network(),
        fetching.surroundings(fetch.download),
    ]
    for key, model in fetch.models.items():
        one = fetching.run(
            model,
            fetch.download,
            container=_fetching(mark),
            folder=small_files(mark),
            program='cat "$work/fetch"',
            further=("--small",),
            seconds=_FETCHED,
        )
        lines.append(
            f"""code=0; {one} \\
                >"$work/{key}" 2>"$work/said" || code=$?
            case $code in
                0) ;;
                3) tail -n 1 "$work/said" >"$work/lacks-{key}" ;;
                *) echo "fetching {model.model}'s small files ended with $code" \\
                    >"$work/lacks-{key}" ;;
            esac
            sed -n 's/^commit /= {key} /p' "$work/{key}" >"$work/commit-{key}"
            """
        )
    return "\n".join(["(", *lines, ': >"$work/fetched" ) &'])
