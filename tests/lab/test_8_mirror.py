"""One host fetches image and models for all: what crosses the uplink, and who may ask it."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import hosts as lab_hosts
from lab import layout
from tests.lab.deploys import ROOT, Run, changes, command
from tests.lab.sabotage import MIRROR as ROWS
from tests.lab.sabotage import Sabotage
from tests.lab.test_4_verify import ended
from vllm_hosts.host.mirror import image_key
from vllm_hosts.project.inventory import load, validate
from vllm_hosts.verify.promises import promises

pytestmark = pytest.mark.nightly
INVENTORY = "inventory/lab_mirror.py"
MIRROR, OTHER = HOSTS = ("gpu1", "gpu2")
PORT = 8444
MB = 1_000_000
#: What the uplink is in the lab: the registry and the hub, on the bridge's own address.
_TABLE = f"vllm_hosts_uplink_{layout.NUMBER}"
_FROM = {"registry": layout.REGISTRY_PORT, "hub": layout.HUB_PORT}
_DOWN = "the mirror gpu1 does not give the image; it comes from its registry"


class Uplink:
    """Bytes that hosts get from registry and hub: counted in this machine's kernel."""

    def __enter__(self) -> Uplink:
        lines = [f"table inet {_TABLE} {{"]
        rules = []
        for host in HOSTS:
            for name, port in _FROM.items():
                lines.append(f"counter {host}_{name} {{\npackets 0 bytes 0\n}}")
                rules.append(
                    f"ip daddr {lab_hosts.host(host).ipv4} tcp sport {port} counter name"
                    f" {host}_{name}"
                )
        lines.append("chain output {\ntype filter hook output priority 0; policy accept;")
        self._nft("-f", "-", given="\n".join([*lines, *rules, "}", "}\n"]))
        return self

    def __exit__(self, *_: object) -> None:
        self._nft("delete", "table", "inet", _TABLE)

    def bytes(self) -> dict[str, int]:
        """By host and source: ``gpu1_registry``."""
        listing = json.loads(self._nft("-j", "list", "counters", "table", "inet", _TABLE))
        found = (one["counter"] for one in listing["nftables"] if "counter" in one)
        return {one["name"]: one["bytes"] for one in found}

    def _nft(self, *words: str, given: str = "") -> str:
        return subprocess.run(
            ["nft", *words], input=given, capture_output=True, text=True, check=True
        ).stdout


@dataclass(frozen=True)
class Mirrored:
    """Two hosts after the first deploy to fresh systems, and what crossed the uplink for it."""

    run: Run
    crossed: dict[str, int]


def deploy(*options: str, settings: dict[str, Any] | None = None) -> Run:
    return command("pyinfra", "-y", *options, INVENTORY, "deploy.py", settings=settings)


def well(run: Run) -> Run:
    assert run.code == 0, run.output[-6000:]
    return run


@pytest.fixture(scope="module")
def mirrored(lab: None) -> Mirrored:
    with Uplink() as uplink:
        run = well(deploy())
        crossed = uplink.bytes()
    print({name: f"{count / MB:.1f} MB" for name, count in crossed.items()})
    return Mirrored(run, crossed)


def image_bytes() -> int:
    """Bytes of the image, as its registry has them."""
    folder = f"/var/lib/vllm-hosts-mirror/images/{image_key(layout.IMAGE)}-$(uname -m)"
    return int(lab_hosts.run(MIRROR, f"du -sb {folder} | cut -f 1").stdout)


def test_one_image_and_one_model_cross_the_uplink(mirrored: Mirrored) -> None:
    image = image_bytes()
    assert image > 100 * MB
    crossed = mirrored.crossed
    assert image < crossed["gpu1_registry"] < 1.05 * image
    assert crossed["gpu2_registry"] < 1 * MB, "what the image consists of, and nothing of it"
    model = lab_hosts.run(OTHER, "du -sbL /var/lib/vllm/huggingface/hub/*/snapshots | cut -f 1")
    assert crossed["gpu2_hub"] < crossed["gpu1_hub"]
    assert crossed["gpu1_hub"] > 0.9 * int(model.stdout.split()[0])
    assert "note:" not in mirrored.run.output
    assert "the mirror gpu1 does not" not in mirrored.run.output


def test_hosts_have_the_image_by_its_own_name_only(mirrored: Mirrored) -> None:
    for host in HOSTS:
        names = lab_hosts.run(host, "docker image ls --format '{{.Repository}}:{{.Tag}}'").stdout
        assert names.split() == [layout.IMAGE], host


def test_the_second_deploy_changes_nothing(mirrored: Mirrored) -> None:
    with Uplink() as uplink:
        run = well(deploy())
        assert changes(run) == dict.fromkeys(HOSTS, 0), run.output[-6000:]
        assert set(uplink.bytes().values()) == {0}


def test_strangers_are_refused(mirrored: Mirrored) -> None:
    address = lab_hosts.host(MIRROR).ipv4
    connect = f"timeout 3 bash -c 'exec 3<>/dev/tcp/{address}/{PORT}'"
    assert lab_hosts.run("neighbour", connect, check=False).returncode != 0
    assert lab_hosts.run(OTHER, connect, check=False).returncode == 0
    ask = (
        "printf 'GET /v2/ HTTP/1.1\\r\\nHost: mirror\\r\\nConnection: close\\r\\n\\r\\n' |"
        f" timeout 10 openssl s_client -quiet -connect {address}:{PORT}"
    )
    own = f"/etc/docker/certs.d/{address}:{PORT}/client"
    without = lab_hosts.run(OTHER, f"{ask} 2>/dev/null", check=False).stdout
    assert " 200 " not in without
    with_own = lab_hosts.run(OTHER, f"{ask} -cert {own}.cert -key {own}.key 2>/dev/null").stdout
    assert re.match(r"HTTP/1.1 200 ", with_own), with_own


def test_each_host_keeps_what_is_promised_of_it(mirrored: Mirrored, tmp_path: Path) -> None:
    run = well(command("vllm-hosts", "verify", INVENTORY, "--report", str(tmp_path)))
    assert "broken" not in run.output
    of = {name: promise.of for name, promise in promises().items()}
    for host in HOSTS:
        kinds = {"mirrored"} | ({"mirror"} if host == MIRROR else set())
        expected = {name for name in of if of[name] in kinds}
        assert expected <= ended(tmp_path, host, "kept"), host


@pytest.mark.parametrize("sabotage", [pytest.param(row, id=row.name) for row in ROWS])
def test_a_broken_promise_is_seen_and_healed(
    mirrored: Mirrored, sabotage: Sabotage, tmp_path: Path
) -> None:
    look = ("verify", INVENTORY, "--host", MIRROR, "--ports", "1-10000")
    try:
        lab_hosts.run(MIRROR, sabotage.do, timeout=400)
        run = command(
            "vllm-hosts", *look, "--report", str(tmp_path), "--skip", "EDGE-12", timeout=900
        )
        assert run.code == 1, run.output[-4000:]
        assert ended(tmp_path, MIRROR, "broken") == sabotage.broken, run.output[-4000:]
    finally:
        healed = deploy("--limit", MIRROR)
    well(healed)
    chosen = [word for name in sorted(sabotage.broken) for word in ("--promise", name)]
    well(command("vllm-hosts", *look, *chosen))


def test_without_the_mirror_a_host_gets_the_image_from_its_registry(mirrored: Mirrored) -> None:
    lab_hosts.run(MIRROR, "systemctl stop vllm-hosts-mirror")
    lab_hosts.run(OTHER, f"docker rm -f spare && docker image rm -f {layout.IMAGE}", timeout=120)
    with Uplink() as uplink:
        run = well(deploy("--limit", OTHER))
        crossed = uplink.bytes()
    assert _DOWN in run.output
    assert crossed["gpu2_registry"] > 0.95 * image_bytes()


def test_a_mirror_that_gives_something_else_is_not_believed(mirrored: Mirrored) -> None:
    """Its nginx serves bytes that the hub and the registry do not have."""
    lab_hosts.run(
        MIRROR,
        "cd /var/lib/vllm/huggingface/hub/models--lab--tiny/blobs &&"
        " for one in ????????????????????????????????????????????????????????????????; do"
        " printf x | dd of=$one bs=1 seek=100 conv=notrunc status=none; done",
    )
    lab_hosts.run(
        OTHER,
        "docker rm -f spare; rm -rf /var/lib/vllm/huggingface/hub/models--lab--tiny"
        " /var/lib/vllm-hosts/models/lab*",
        timeout=120,
    )
    with Uplink() as uplink:
        well(deploy())
        assert uplink.bytes()["gpu2_hub"] > 0.9 * mirrored.crossed["gpu1_hub"]
    lab_hosts.run(MIRROR, "rm -rf /var/lib/vllm-hosts/models/lab*")
    well(deploy())


def test_without_the_group_nothing_of_it_is_left(mirrored: Mirrored) -> None:
    run = well(deploy(settings={"mirror_hosts": []}))
    for host in HOSTS:
        left = lab_hosts.run(
            host,
            "ls -d /etc/docker/certs.d /var/lib/vllm-hosts-mirror /etc/vllm-hosts/mirror/*"
            " /etc/systemd/system/vllm-hosts-mirror.service 2>/dev/null;"
            " nft list ruleset | grep 8444; ss -Hltn | grep 8444",
            check=False,
        ).stdout
        assert left == "", host
    again = well(deploy(settings={"mirror_hosts": []}))
    assert changes(again) == dict.fromkeys(HOSTS, 0), again.output[-6000:]
    assert run.code == 0


def test_the_inventory_is_one_with_a_mirror() -> None:
    settings = validate(load(ROOT / INVENTORY))
    assert [one.is_mirror for one in settings.values()] == [True, False]
