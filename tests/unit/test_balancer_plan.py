"""HAProxy's configuration on gateways, from settings."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.host.files import File, Folder
from vllm_hosts.roles.balancer.plan import _numbers, balancer_entries, configuration
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import Pool, Replica


def gateway(*pools: Pool, **values: object) -> HostSettings:
    """A gateway's settings, for these pools."""
    return settings(agents=[QWEN, CODER], **values).model_copy(update={"pools": pools})


BALANCED = gateway(
    Pool(
        "qwen",
        "Qwen/Qwen3-8B",
        (
            Replica("gpu1", "qwen", "192.0.2.11", 8443),
            Replica("gpu1", "qwen-2", "192.0.2.11", 8443),
            Replica("gpu2", "qwen", "2001:db8::12", 9443, 2),
        ),
    ),
    Pool("coder", "coder-14b", (Replica("gpu3", "coder", "gpu3.example.com", 8443),)),
)


def servers(settings: HostSettings) -> dict[str, dict[str, str]]:
    """The words of each server's line, by its name."""
    found = {}
    for line in configuration(settings).splitlines():
        if words := re.fullmatch(r"    server (\S+) (\S+) id (\d+) weight (\d+) (.*)", line):
            found[words[1]] = dict(
                zip(("address", "id", "weight", "more"), words.groups()[1:], strict=True)
            )
    return found


def test_where_it_lies_and_who_may_read_it() -> None:
    entries = balancer_entries(BALANCED)
    assert [(one.path, one.mode) for one in entries if isinstance(one, File | Folder)] == [
        ("/etc/vllm-hosts/balancer", 0o755),
        ("/usr/local/lib/vllm-hosts", 0o755),
        ("/var/lib/vllm-hosts/balancer", 0o700),
        ("/etc/vllm-hosts/balancer/haproxy.cfg", 0o644),
        ("/usr/local/lib/vllm-hosts/save-balancer-state", 0o700),
        ("/usr/local/lib/vllm-hosts/hand-over-balancer", 0o700),
        ("/etc/systemd/system/vllm-hosts-balancer.service", 0o644),
    ]


def test_addresses_of_every_kind() -> None:
    assert [one["address"] for one in servers(BALANCED).values()] == [
        "ipv4@192.0.2.11:8443",
        "ipv4@192.0.2.11:8443",
        "ipv6@[2001:db8::12]:9443",
        "gpu3.example.com:8443",
    ]


def test_nothing_listens_on_tcp() -> None:
    binds = [line.split()[1] for line in configuration(BALANCED).splitlines() if "bind " in line]
    assert binds == [
        f"unix@/run/vllm-hosts-balancer/in.{name}.sock" for name in ("qwen", "qwen.again", "coder")
    ]


def test_no_agent_takes_the_place_of_a_runtime_socket() -> None:
    names = ("admin", "master")
    text = configuration(gateway(*(Pool(name, name, BALANCED.pools[0].replicas) for name in names)))
    sockets = re.findall(r"(?:bind unix@|stats socket )(\S+)", text)
    unit = next(one for one in balancer_entries(BALANCED) if one.path.endswith(".service"))
    assert isinstance(unit, File)
    sockets += re.findall(r" -S ([^\s,]+)", unit.content.decode())
    assert len(sockets) == len(set(sockets)) == 6


def test_weights_are_finer_and_keep_their_relation() -> None:
    def of(*weights: int) -> list[str]:
        replicas = [Replica(str(n), "qwen", "192.0.2.1", 1, w) for n, w in enumerate(weights)]
        found = servers(gateway(Pool("qwen", "m", tuple(replicas))))
        return [one["weight"] for one in found.values()]

    assert of(1) == ["16"]
    assert of(1, 1, 2) == ["16", "16", "32"]
    assert of(3, 64) == ["12", "256"]
    assert of(1, 256) == ["1", "256"]
    assert of(200, 100) == ["200", "100"]


def test_a_server_s_number_follows_from_its_name_alone() -> None:
    """So that it is the same on every gateway, and stays when others come and go."""
    names = [f"qwen.h{n:016x}" for n in range(300)]
    all_of_them = _numbers(names)
    assert _numbers(reversed(names)) == all_of_them
    assert len(set(all_of_them.values())) == 300
    assert all(0 < number < 1 << 20 for number in all_of_them.values())
    alone = {name: _numbers([name])[name] for name in names}
    assert sum(alone[name] != number for name, number in all_of_them.items()) < 3


def test_what_settings_say_is_there() -> None:
    text = configuration(
        gateway(
            *BALANCED.pools,
            edge={"timeout": 77, "connections": 100, "expected_clients": 50},
            gateway={"fair_share": 1.5, "drain_timeout": 900},
        )
    )
    for line in ("timeout server 77s", "timeout client 82s", "maxconn 5256",
                 "hash-balance-factor 150", "hard-stop-after 900s"):  # fmt: skip
        assert f"    {line}\n" in text


def test_open_files_are_enough() -> None:
    [unit] = [one for one in balancer_entries(BALANCED) if one.path.endswith(".service")]
    assert isinstance(unit, File)
    [limit] = re.findall(rb"^LimitNOFILE=(\d+)$", unit.content, re.MULTILINE)
    assert int(limit) > 2 * 4352


def test_at_boot_it_waits_for_names_until_one_is_known(tmp_path: Path) -> None:
    def waits(settings: HostSettings) -> list[str]:
        [unit] = [one for one in balancer_entries(settings) if one.path.endswith(".service")]
        assert isinstance(unit, File)
        text = unit.content.decode()
        return re.findall(r"^ExecStartPre=-/usr/bin/timeout 60 /bin/sh -c '(.*)'$", text, re.M)

    assert waits(gateway(BALANCED.pools[0])) == []
    names = ("gpu3.example.com", "gpu4.example.com")
    replicas = tuple(Replica(name, "coder", name, 8443) for name in reversed(names))
    [script] = waits(gateway(Pool("coder", "coder-14b", replicas)))
    asked = tmp_path / "asked"
    # The second one is known when it is asked for the second time.
    (tmp_path / "getent").write_text(
        f'#!/bin/sh\necho "$*" >>{asked}\n[ "$(grep -c {names[1]} {asked})" = 2 ]\n'
    )
    (tmp_path / "getent").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    # As systemd hands it on.
    words = ["sh", "-c", script.replace("$$", "$")]
    subprocess.run(words, env=os.environ | path, check=True, timeout=20)
    assert asked.read_text().split() == ["ahosts", names[0], "ahosts", names[1]] * 2
