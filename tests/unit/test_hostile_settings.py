"""Anything in the place of a setting or of an inventory: settings that are valid, or sentences."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from pyinfra.api.inventory import Inventory

from tests.unit import hostile
from tests.unit.examples import examples
from tests.unit.projects import Project
from tests.unit.samples import CODER, QWEN
from vllm_hosts.connect import pyinfra_speed
from vllm_hosts.connect.addresses import port_of
from vllm_hosts.errors import SettingsError
from vllm_hosts.project.inventory import load, validate
from vllm_hosts.settings import HostSettings
from vllm_hosts.text import quoted


class Odd:
    """Says something else of itself than what it is."""

    def __repr__(self) -> str:
        return hostile.ESCAPES


_ENDLESS: list[Any] = []
_ENDLESS.append(_ENDLESS)
_DEEP: list[Any] = []
for _ in range(5000):
    _DEEP = [_DEEP]
#: What a settings file, which is Python, can have besides what JSON knows.
_PYTHON = (
    *(b"\xff", {1, 2}, Odd(), Odd, math.nan, math.inf, "\ud800", 10**4000, 10**5000, {1: 2}),
    *({None: 3}, _ENDLESS, range(3), Path("/etc/passwd"), datetime.date(2026, 1, 1), print, ...),
    *(object(), "a\nb", "\x00", " ", -0.0, frozenset("ab"), 1j),
)
_FULL = HostSettings.model_validate(
    {
        "name": "gpu1",
        "address": "192.0.2.11",
        "agents": [
            QWEN
            | {
                "expose": {"networks": ["10.0.0.0/8"], "unguarded_routes": "accepted"},
                "egress": {"networks": ["10.0.0.0/8"]},
            },
            CODER,
        ],
    }
).model_dump(mode="json", exclude={"name", "address"})
#: What an inventory says of the way to a host.
_WAY = ("ssh_hostname", "ssh_port", "ssh_user", "ssh_key", "ssh_config_file", "x_own", "foo", "_su")


def changed(random: Random, value: Any) -> Any:
    """Settings with something else in one place."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        if random.random() < 0.05:
            return value | {hostile.word(random): hostile.odd(random, {})}
        key = random.choice(list(value))
        return value | {key: changed(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.8:
        at = random.randrange(len(value))
        return [*value[:at], changed(random, value[at]), *value[at + 1 :]]
    return random.choice(_PYTHON) if random.random() < 0.5 else hostile.odd(random, value)


@settings(max_examples=examples(60), deadline=None)
@given(random=hostile.seeds)
def test_settings_are_valid_or_refused_in_sentences(random: Random) -> None:
    pyinfra_speed.install()
    data = changed(random, _FULL)
    if not isinstance(data, dict):
        data = {"agents": data}
    name = "gpu1" if random.random() < 0.9 else hostile.word(random) or "x"
    way = {random.choice(_WAY): random.choice(_PYTHON)} if random.random() < 0.3 else {}
    hosts: list[Any] = [(name, way)]
    inventory = Inventory((hosts, {}), gpu_hosts=(hosts, data))
    try:
        assert validate(inventory)
    except SettingsError as error:
        for problem in error.problems:
            assert not hostile.evil(problem) and len(problem) < 9000


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ({"ssh_port": "22a"}, "ssh_port of 'gpu1' is '22a'; write a number from 1 to 65535"),
        ({"ssh_port": 70000}, "ssh_port of 'gpu1' is 70000; write a number"),
        ({"ssh_port": [22]}, "ssh_port of 'gpu1' is [22]; write a number"),
        ({"ssh_hostname": 192}, "ssh_hostname of 'gpu1' is 192; write it as text in quotes"),
        ({"ssh_user": ["root"]}, "ssh_user of 'gpu1' is ['root']; write it as text"),
        ({"ssh_config_file": 1}, "ssh_config_file of 'gpu1' is 1; write it as text"),
        ({5: 1}, "5 is no name of a setting; write it as text in quotes"),
        # Not what they hold.
        (
            {"ssh_password": 471147},
            "ssh_password of 'gpu1' is not text; write it as text in quotes",
        ),
        ({"ssh_key_password": b"471147"}, "ssh_key_password of 'gpu1' is not text; write it as"),
    ],
)
def test_the_way_to_a_host_is_a_way(way: dict[str, object], words: str) -> None:
    hosts: list[Any] = [("gpu1", way)]
    with pytest.raises(SettingsError) as refused:
        validate(Inventory((hosts, {}), gpu_hosts=(hosts, {"agents": [QWEN]})))
    assert any(words in problem for problem in refused.value.problems), refused.value.problems
    assert "471147" not in str(refused.value)


def test_a_port() -> None:
    found = [port_of(value) for value in (None, "", 22, "2222", 65535)]
    assert found == [22, 22, 22, 2222, 65535]
    for value in (0, -1, 65536, "²", "22 ", True, 22.0, [], [22], b"22", 10**5000):
        assert port_of(value) is None


def test_whatever_is_refused_is_quoted() -> None:
    assert quoted(_DEEP) == "a list that is too large to show"
    assert quoted(10**5000) == "a int that is too large to show"
    assert quoted(Odd()).strip() == "A" and len(quoted("x" * 900)) < 210


@pytest.mark.parametrize("file", ["group_data/gpu_hosts.py", "inventory/prod.py"])
def test_an_inventory_that_ends_the_program_is_refused(tmp_path: Path, file: str) -> None:
    """With exit code 0 all would seem well, and nothing was done."""
    Project(tmp_path).write(file, "import sys\nsys.exit(0)\n")
    with pytest.raises(SettingsError, match=f"{file}, line 2: cannot be loaded: SystemExit: 0"):
        load(tmp_path / "inventory/prod.py")


#: What an inventory's file may be.
FILES: tuple[bytes, ...] = (
    b"\x00\xff\xfe",
    b"# -*- coding: nonsense -*-\n",
    b"gpu_hosts = [",
    b"(" * 500,
    b"raise SystemExit(0)",
    b"raise RuntimeError('\x1b]0;owned\\x07\\nError: forged')",
    b"def f():\n    return f()\ngpu_hosts = [f()]",
    b"gpu_hosts = 7",
    b"gpu_hosts = [7, None, ('a',), ('b', 7), {}]",
    b"gpu_hosts = [('gpu1', {'ssh_hostname': '192.0.2.1'}, 3)]",
    b"gpu_hosts = ['\\x1b]0;owned\\x07']",
    b"gpu_hosts = ['gpu1\\nforged']",
    b"gpu_hosts = (host for host in ['a'])",
    b"gpu_hosts = [('gpu1', {})] * 2",
    b"import nothing_of_that_name",
    b"[]",
    b"",
)


@pytest.mark.parametrize("content", FILES, ids=lambda content: content[:24].decode("latin-1"))
def test_an_inventory_that_holds_anything(tmp_path: Path, content: bytes) -> None:
    project = Project(tmp_path)
    (tmp_path / "inventory/prod.py").write_bytes(content)
    try:
        validate(load(tmp_path / "inventory/prod.py"))
    except SettingsError as error:
        for problem in error.problems:
            assert problem and not hostile.evil(problem)
    assert project.folder == tmp_path
