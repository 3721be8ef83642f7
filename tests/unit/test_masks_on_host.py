"""A host's keys in text that leaves it: masked there, by the shell, before anybody reads it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from shlex import quote

import pytest

from vllm_hosts.host.masks import MASKED, keys
from vllm_hosts.host.paths import EDGE_FOLDER

FIRST, SECOND = "sk-first-0123456789", "hf_second=a&b\\1"


class Host:
    """Folders as a host has them, with keys in all files that have any."""

    def __init__(self, folder: Path) -> None:
        self.opt, self.edge = folder / "it's opt", folder / "the edge"
        self.opt.mkdir()
        self.edge.mkdir()

    def env(self, text: str) -> None:
        (self.opt / ".env").write_text(text)

    def map(self, name: str, text: str) -> None:
        (self.edge / f"{name}.map").write_text(text)

    def shows(self, text: str) -> str:
        # As facts do: a command of a pipe, behind what says where keys are.
        script = f"{keys(str(self.opt), str(self.edge))}\nprintf %s {quote(text)} | {MASKED}"
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=True, env=os.environ
        )
        assert done.stderr == ""
        return done.stdout


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_keys_of_agents_and_tokens(host: Host) -> None:
    host.env(f"# SAID=nothing-secret\nVLLM_API_KEY_1={FIRST}\nHF_TOKEN={SECOND}\nno key\n")
    assert host.shows(f"a {FIRST} b {SECOND} c {FIRST}{FIRST}.\nnothing-secret, no key\n") == (
        "a *MASKED* b *MASKED* c *MASKED**MASKED*.\nnothing-secret, no key\n"
    )


@pytest.mark.parametrize("name", ["clients", "internal"])
def test_keys_of_the_edge(host: Host, name: str) -> None:
    """With or without the word before them: an agent's log may have either."""
    host.map(name, f'# no key\n"Bearer {FIRST}" "alice";\nvllm_hosts_x "Bearer {SECOND}";\n')
    assert host.shows(f"Bearer {FIRST}\nkey={SECOND}\nalice\n") == (
        "Bearer *MASKED*\nkey=*MASKED*\nalice\n"
    )


def test_all_files_are_read(host: Host) -> None:
    host.env(f"A={FIRST}\n")
    host.map("clients", '"Bearer client-key-1" "alice";\n')
    host.map("internal", 'x "Bearer internal-key-1";\n')
    assert host.shows(f"{FIRST} client-key-1 internal-key-1") == "*MASKED* *MASKED* *MASKED*\n"


def test_a_host_that_has_no_keys_yet(host: Host) -> None:
    assert host.shows("a=b c\n") == "a=b c\n"
    # Nor is text taken for a file of keys.
    assert host.shows(f"X={FIRST}\n{FIRST}\n") == f"X={FIRST}\n{FIRST}\n"


def test_what_is_too_short_for_a_key_does_not_mask_half_of_the_text(host: Host) -> None:
    host.env("A=1234567\nB=12345678\nC=\nD=e\n")
    host.map("clients", '"Bearer 7654321" "x";\n"" "nobody";\n')
    assert host.shows("1234567 7654321 e\n12345678\n") == "1234567 7654321 e\n*MASKED*\n"


def test_a_key_that_is_in_what_stands_in_its_place(host: Host) -> None:
    host.env("A=*MASKED*\n")
    assert host.shows("b *MASKED* c") == "b *MASKED* c\n"


def test_a_key_is_no_pattern(host: Host) -> None:
    host.env("A=.*[a-z]+$\nB=a&b\\\\n\\1x\n")
    assert host.shows("abcdefghij\n.*[a-z]+$ a&b\\\\n\\1x") == "abcdefghij\n*MASKED* *MASKED*\n"


def test_where_a_host_has_its_keys() -> None:
    assert keys("/opt/vllm").splitlines() == [
        "set --",
        '[ ! -f /opt/vllm/.env ] || set -- "$@" from=env /opt/vllm/.env',
        *(
            f'[ ! -f {EDGE_FOLDER}/{name}.map ] || set -- "$@" from=map {EDGE_FOLDER}/{name}.map'
            for name in ("clients", "internal")
        ),
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_a_key_that_another_one_begins_with_or_has_within(host: Host, order: int) -> None:
    """Whichever is masked first, nothing of the other is left."""
    few = [f"team-key-{n}" for n in range(1, 10)]
    more = [f"{key}{tail}" for key in few for tail in ("0", "-alice", "-alice-2")]
    more += [f"before-{key}" for key in few]
    host.env("".join(f"K{n}={key}\n" for n, key in enumerate([*few, *more][::order])))
    assert host.shows("\n".join(more)) == "*MASKED*\n" * len(more)
