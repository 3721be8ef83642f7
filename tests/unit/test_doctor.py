"""Each diagnosis comes first for its fault, and a healthy host has none."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from tests.unit import doctor_words as said
from tests.unit.doctor_cases import (
    FAULTS,
    Fault,
    asked,
    crashed,
    smi,
)
from tests.unit.doctor_gateways import GATEWAY, OF_GATEWAYS, healthy_gateway
from tests.unit.doctor_hosts import NOW, agent, cards, health, healthy, with_gpus
from tests.unit.samples import QWEN, settings
from vllm_hosts.doctor import examine  # noqa: F401  registers all diagnoses
from vllm_hosts.doctor.diagnoses import Diagnosis, Text, diagnose, finds, registered, texts
from vllm_hosts.doctor.doctors_words import SAYINGS
from vllm_hosts.doctor.seen import Disk, DockerSeen, Seen
from vllm_hosts.host.mokutil import secure_boot
from vllm_hosts.host.systemctl import Active


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=f"{n}-{fault.identifier}")
        for n, fault in enumerate([*FAULTS, *OF_GATEWAYS])
    ],
)
def test_a_fault_is_named_first(fault: Fault) -> None:
    seen = healthy() if fault.host.runs_agents else healthy_gateway()
    first, *_ = diagnose(fault.host, fault.make(seen))
    assert (first.identifier, first.certainty) == (fault.identifier, fault.certainty), first
    assert fault.says in first.what
    assert fault.do in first.remedy
    assert first.evidence
    assert "{" not in first.what + first.remedy


@pytest.mark.parametrize("text", texts().values(), ids=lambda text: text.identifier)
def test_a_remedy_that_only_says_deploy_is_marked_as_one(text: Text) -> None:
    """What to type for it is printed below; other remedies say it themselves."""
    assert text.deploys == bool(re.search(r"\bdeploy\b(?!\.py)|[Rr]un deploy\.py", text.remedy))


def test_every_diagnosis_has_a_fault_here() -> None:
    made = {fault.identifier for fault in [*FAULTS, *OF_GATEWAYS]}
    assert made | set(SAYINGS) == set(texts()) == registered()


def test_a_healthy_host_has_nothing() -> None:
    assert diagnose(settings(), healthy()) == []
    assert list(healthy().blind()) == []


def test_a_healthy_gateway_has_nothing() -> None:
    assert diagnose(GATEWAY, healthy_gateway()) == []
    assert list(healthy_gateway().blind()) == []


def test_a_gateway_is_not_examined_for_docker() -> None:
    """Nobody asks whether there is any."""
    for docker in (
        DockerSeen("", Active.SILENT, answers=False),
        DockerSeen("/snap/bin/docker", Active.FAILED, answers=False, said="no"),
    ):
        assert diagnose(GATEWAY, replace(healthy_gateway(), docker=docker)) == []


def test_a_gateway_that_is_full_needs_no_room_for_images() -> None:
    seen = replace(healthy_gateway(), disks=(Disk("bytes", 10**12, 0, "/"),))
    [found] = diagnose(GATEWAY, seen)
    assert found.identifier == "disk-full"
    assert "docker" not in found.remedy


def test_a_gateway_that_was_not_deployed_to() -> None:
    [found] = diagnose(GATEWAY, replace(healthy_gateway(), deployed=False, balancer=None))
    assert found.identifier == "not-deployed"
    assert found.evidence == "/etc/nginx/conf.d/vllm-hosts.conf does not exist"


def test_a_healthy_host_without_gpus_has_nothing() -> None:
    seen = agent(replace(healthy(), gpus=None), gpus=None)
    assert diagnose(settings(agents=[dict(QWEN, gpus=[])]), seen) == []


def test_two_diagnoses_cannot_have_one_name() -> None:
    with pytest.raises(ValueError, match="two functions"):
        finds("docker-down")(lambda settings, seen: [])
    with pytest.raises(ValueError, match="no text"):
        finds("no-such-diagnosis")(lambda settings, seen: [])


def found(seen: Seen, **values: Any) -> list[Diagnosis]:
    return diagnose(settings(**values), seen)


class TestWhatIsNoFault:
    """What looks like a fault, and is none."""

    def test_an_old_error_of_an_agent_that_serves(self) -> None:
        assert found(agent(healthy(), log=tuple(said.KV_CACHE.splitlines()))) == []

    def test_a_small_file_system_with_room(self) -> None:
        assert found(replace(healthy(), disks=(Disk("bytes", 64 * 1024, 8192, "/run/x"),))) == []

    def test_a_file_system_that_does_not_count_inodes(self) -> None:
        assert found(replace(healthy(), disks=(Disk("inodes", 0, 0, "/"),))) == []

    def test_xids_of_programs_that_were_killed(self) -> None:
        assert found(replace(healthy(), kernel=(said.XID_43,))) == []

    def test_a_client_that_got_it_right_in_the_end(self) -> None:
        requests = (asked(401, "edge"), asked(200, "vllm"))
        assert found(replace(healthy(), requests=requests)) == []

    def test_a_deploy_that_asks_without_a_key(self) -> None:
        own = asked(401, "edge", address="192.0.2.1", method="GET")
        assert found(replace(healthy(), controller="192.0.2.1", requests=(own,))) == []

    def test_a_deploy_from_the_host_itself_where_somebody_is_logged_in(self) -> None:
        own = asked(401, "edge", address="192.0.2.7", method="GET")
        seen = replace(healthy(), controller="192.0.2.1", requests=(own,))
        assert [one.identifier for one in found(seen)] == ["refused-by-edge"]
        assert found(replace(seen, own=frozenset({"192.0.2.7", "2001:db8::7"}))) == []

    def test_refusals_before_the_agent_was_started_again(self) -> None:
        seen = agent(healthy(), started=NOW)
        assert found(replace(seen, requests=(asked(401, "vllm"),))) == []

    def test_a_card_that_does_not_count_ecc_errors(self) -> None:
        row = "0, 40, [N/A], Not Active, Not Active, [N/A]"
        assert found(with_gpus(healthy(), health=health(row))) == []

    def test_an_agent_that_ends_while_it_is_looked_at(self) -> None:
        daemon = "Error response from daemon: container 4711 is not running"
        assert found(agent(healthy(), gpus=(daemon,))) == []

    def test_a_warning_between_the_cards(self) -> None:
        lines = ("WARNING: infoROM is corrupted at gpu 0000:3B:00.0", "0, NVIDIA GB10, [N/A]")
        assert found(with_gpus(healthy(), smi=cards(*lines))) == []

    def test_a_warning_s_exit_code_is_no_dead_driver(self) -> None:
        lines = ("0, NVIDIA A10G, 23028", "WARNING: infoROM is corrupted at gpu 0000:00:1E.0")
        assert found(with_gpus(healthy(), smi=cards(*lines, code=14))) == []
        fine = health("0, 34, 0, Not Active, Not Active, Not Active", lines[1], code=14)
        seen = with_gpus(healthy(), smi=cards(*lines, code=14), health=fine)
        assert (found(seen), list(seen.blind())) == ([], [])


class TestWhatIsSaidBesides:
    """Symptoms come after their cause, and advice knows the other agents."""

    def test_the_loop_comes_after_its_reason(self) -> None:
        names = [one.identifier for one in found(crashed(said.KV_CACHE)(healthy()))]
        assert names == ["kv-cache-too-small", "agent-crash-loop"]

    def test_a_loop_of_an_unknown_reason_shows_its_last_error(self) -> None:
        [first] = found(crashed(said.CRASH)(healthy()))
        assert first.evidence == "KeyError: 'layers.0.mlp.gate_up_proj.weight'"

    def test_a_dead_driver_is_no_container_without_a_gpu(self) -> None:
        seen = smi(18, said.MISMATCH)(healthy())
        assert [one.identifier for one in found(seen)] == ["driver-mismatch"]

    @pytest.mark.parametrize(
        ("printed", "names"),
        [
            (["SecureBoot enabled"], ["secure-boot-key"]),
            # Then any module may be loaded, as preflight has it too.
            (["SecureBoot enabled", "SecureBoot validation is disabled in shim"], []),
            (["SecureBoot disabled"], []),
        ],
    )
    def test_secure_boot_as_mokutil_says_it(self, printed: list[str], names: list[str]) -> None:
        on = secure_boot(printed)
        seen = smi(9, said.NO_DRIVER, modules=frozenset(), secure_boot=on)(healthy())
        assert [one.identifier for one in found(seen)][1:] == names

    @pytest.mark.parametrize("setting", ["max_model_len = 20560", ""])
    def test_another_remedy_than_the_usual_one_says_as_well_whether_it_deploys(
        self, setting: str
    ) -> None:
        seen = replace(healthy(), fitting={"qwen": setting} if setting else {})
        [first, _] = found(crashed(said.NO_KV_CACHE)(seen))
        assert (setting in first.remedy, first.deploys) == (True, True)
        stopped = agent(healthy(), state="exited", health=None, exit_code=1)
        assert not found(stopped)[0].deploys

    def test_no_more_of_a_card_than_the_others_leave(self) -> None:
        shared = dict(QWEN, gpu_memory_utilization=0.5)
        other = dict(QWEN, name="other", port=8002, gpu_memory_utilization=0.5)
        seen = crashed(said.KV_CACHE)(healthy())
        first = found(seen, agents=[shared, other])[0]
        assert "gpu_memory_utilization" not in first.remedy
        assert "--kv-cache-dtype fp8" in first.remedy

    def test_evidence_is_the_program_s_own_line(self) -> None:
        first = found(crashed(said.CARD_TAKEN)(healthy()))[0]
        assert first.evidence.startswith("ValueError: Free memory on device cuda:0 (34.34/121.63")


class TestBlind:
    """What could not be looked at is said, and is not healthy."""

    def test_the_kernel_s_log(self) -> None:
        assert "kernel's log" in "".join(replace(healthy(), kernel=None).blind())

    def test_ecc_errors_that_this_driver_does_not_tell(self) -> None:
        line = 'Field "clocks_throttle_reasons.x" is not a valid field to query.'
        said_no = health(line, code=2)
        [blind] = with_gpus(healthy(), health=said_no).blind()
        assert "not a valid field" in blind

    def test_gpus_in_an_agent(self) -> None:
        """Of one that is not well it is told by itself, and it may just have ended."""
        assert "nvidia-smi printed nothing" in "".join(agent(healthy(), gpus=()).blind())
        assert list(agent(healthy(), gpus=(), health="starting").blind()) == []

    def test_a_firewall_that_nft_does_not_list(self) -> None:
        assert "nft" in "".join(replace(healthy(), firewall=None).blind())
