"""What `vllm-hosts top` makes of what programs print, and how it looks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit.fakes import inspect_line
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END
from vllm_hosts.host.containers import Container
from vllm_hosts.host.docker_stats import Usage, usages
from vllm_hosts.host.nvidia_smi import Gpu
from vllm_hosts.host.vllm_metrics import Metrics, http_body, metrics
from vllm_hosts.top.draw import View, lines, picture
from vllm_hosts.top.export import as_json
from vllm_hosts.top.poll import Doing, _gpus
from vllm_hosts.top.sample import AgentSample, HostSample, Rates, rates

RECORDED = Path(__file__).with_name("recorded")
H200 = Gpu(
    0, "NVIDIA H200", memory_mib=143771, mig=False, memory_used_mib=130211, utilization=97.0,
    temperature=64.0, power=612.31, power_limit=700.0,
)  # fmt: skip
SINCE = datetime(2026, 11, 25, 7, tzinfo=UTC)


def agent(taken: float = 100.0, **metrics: float) -> AgentSample:
    container = Container("qwen3-8b", "running", "healthy", started=SINCE)
    said = Metrics(running=1, waiting=0, kv_cache=0.5, **metrics)
    return AgentSample(container, taken, said, None, Usage(101.2, 3 * 2**30, 2**36))


def test_cards_as_nvidia_smi_tells_of_them() -> None:
    found, problem = _gpus(
        [
            "0, NVIDIA H200, 130211, 143771, 97, 64, 612.31, 700.00, Disabled",
            "1, NVIDIA H100 80GB HBM3, 87, 81559, [N/A], 33, 71.42, 700.00, Enabled",
            "2, NVIDIA L40S, 4, 46068, 0, 29, 33.17, 350.00, [N/A]",
            "3, Tesla T4, [Unknown Error], 15360, [Not Supported], N/A, [N/A], 70, [N/A]",
            "4, Tesla T4, [GPU is lost], 15360, [GPU is lost], N/A, [GPU is lost], 70, [N/A]",
            "exit 0",
        ]
    )
    assert problem == "GPU 4: GPU is lost"
    assert found[0] == H200
    assert (found[1].mig, found[1].utilization, found[1].memory_used_mib) == (True, None, 87)
    assert (found[2].mig, found[2].utilization, found[2].power_limit) == (None, 0.0, 350.0)
    assert found[3] == Gpu(3, "Tesla T4", memory_mib=15360, power_limit=70.0)


@pytest.mark.parametrize("line", ["0, NVIDIA H200, many, 1, 1, 1, 1, 1, Disabled", "0, H200", ""])
def test_a_line_that_is_no_card_is_not_guessed_at(line: str) -> None:
    assert _gpus([line, "exit 0"]) == ((), line or "No devices were found")


@pytest.mark.parametrize("code", [0, 14, 124])
def test_cards_are_shown_with_the_driver_s_warning(code: int) -> None:
    warning = "WARNING: infoROM is corrupted at gpu 0000:00:1E.0"
    row = "0, NVIDIA H200, 130211, 143771, 97, 64, 612.31, 700.00, Disabled"
    cards, words = _gpus([row, warning, f"exit {code}"])
    assert cards == (H200,)
    late = "nvidia-smi did not finish within 6 s " if code == 124 else ""
    assert words == f"{late}{warning}"


def test_what_containers_use() -> None:
    found = usages(
        [
            '{"BlockIO":"0B / 8.19kB","CPUPerc":"398.02%","Container":"one","ID":"6f3c",'
            '"MemPerc":"3.02%","MemUsage":"2.5GiB / 78.2GiB","Name":"one","NetIO":"1kB / 2kB",'
            '"PIDs":"49"}',
            '{"CPUPerc":"--","MemUsage":"-- / --","Name":"ending"}',
            '{"CPUPerc":"0.00%","MemUsage":"512KiB / 1.5TiB","Name":"two"}',
        ]
    )
    assert found == {
        "one": Usage(398.02, int(2.5 * 2**30), int(78.2 * 2**30)),
        "two": Usage(0.0, 512 * 1024, int(1.5 * 2**40)),
    }
    with pytest.raises(ValueError, match="not a size"):
        usages(['{"CPUPerc":"1%","MemUsage":"much / more","Name":"one"}'])


def test_what_vllm_says_of_itself() -> None:
    found = metrics((RECORDED / "metrics-0.33.txt").read_text())
    assert found == Metrics(
        running=12,
        waiting=3,
        kv_cache=0.4172661870503597,
        prompt_tokens=1842110,
        generation_tokens=60321,
        prefix_hits=73684,
        prefix_queries=184211,
    )


def test_engines_are_added_up_and_the_fullest_cache_counts() -> None:
    found = metrics(
        'vllm:num_requests_running{engine="0"} 2\nvllm:num_requests_running{engine="1"} 3\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0.25\nvllm:kv_cache_usage_perc{engine="1"} 0.75\n'
    )
    assert (found.running, found.kv_cache, found.prompt_tokens) == (5, 0.75, None)


def test_the_name_that_older_versions_have() -> None:
    old = 'vllm:gpu_cache_usage_perc{model_name="a b\\"}"} 0.7\n'
    assert metrics(old).kv_cache == 0.7
    assert metrics(old + 'vllm:kv_cache_usage_perc{model_name="m"} 0.1\n').kv_cache == 0.1


@pytest.mark.parametrize(
    "text", ["", "<html>404</html>", "vllm:num_requests_running{broken 1", "up 1\n"]
)
def test_what_is_no_metrics_of_vllm_is_not_zero(text: str) -> None:
    with pytest.raises(ValueError):
        metrics(text)


def test_answers_as_they_come_over_the_wire() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
    chunked = head + b"transfer-encoding: chunked\r\n\r\n4\r\nup 1\r\n1\r\n\n\r\n0\r\n\r\n"
    assert http_body(chunked) == "up 1\n"
    assert http_body(head + b"content-length: 5\r\n\r\nup 1\n") == "up 1\n"
    for cut in (chunked[:-9], head + b"content-length: 50\r\n\r\nup 1\n", b"nonsense"):
        with pytest.raises(ValueError, match="cut short"):
            http_body(cut)
    with pytest.raises(ValueError, match="answers 503"):
        http_body(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
    with pytest.raises(ValueError, match="nothing answers"):
        http_body(b"")


def test_rates_are_differences_over_the_host_s_own_time() -> None:
    before = agent(100.0, prompt_tokens=1000, generation_tokens=50)
    now = agent(102.5, prompt_tokens=2000, generation_tokens=50)
    assert rates(before, now) == Rates(400.0, 0.0)


def test_no_rate_is_made_up() -> None:
    before = agent(100.0, prompt_tokens=1000, generation_tokens=50)
    now = agent(102.0, prompt_tokens=10, generation_tokens=70)
    assert rates(before, now) == Rates(None, 10.0), "vLLM counts from zero again"
    assert rates(None, now) == Rates()
    assert rates(now, now) == Rates()
    restarted = replace(now, container=replace(now.container, started=datetime.now(UTC)))
    assert rates(before, restarted) == Rates()
    assert rates(before, replace(now, metrics=None)) == Rates()


LOOK = [
    "== containers",
    inspect_line("one", "exited", "unhealthy", command=None),
]


def look(*cards: str) -> HostSample:
    return Doing().process(
        [*LOOK, "== gpus", *cards, "== metrics one", "1234.56", "", "== stats", "", END]
    )


def test_a_host_without_nvidia_smi_has_no_gpus_and_no_problem() -> None:
    found = look("exit -")
    assert (found.gpus, found.gpu_problem) == ((), None)
    one = found.agents["one"]
    assert (one.container.state, one.container.exit_code, one.taken) == ("exited", 137, 1234.56)
    assert (one.metrics, one.metrics_problem, one.usage) == (None, "the container is exited", None)


def test_the_driver_s_own_words_are_shown() -> None:
    words = "Failed to initialize NVML: Driver/library version mismatch"
    assert look(words, "NVML library version: 590.48", "exit 18").gpu_problem == (
        f"{words} NVML library version: 590.48"
    )
    assert look("exit 124").gpu_problem == "nvidia-smi did not answer within 6 s"


def test_half_a_look_is_none() -> None:
    with pytest.raises(HostError, match="cut short"):
        Doing().process([*LOOK, "== gpus"])
    with pytest.raises(HostError, match="could not be understood"):
        Doing().process([*LOOK, "== gpus", "exit 0", "== metrics one", "== stats", END])


def drawn(views: dict[str, View], height: int = 24) -> list[str]:
    console = Console(width=80, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(picture(views, "vllm-hosts top inventory/prod.py", "10:00:00", height))
    return [line.rstrip() for line in capture.get().splitlines()]


FULL = HostSample(
    (H200, replace(H200, index=1, name="NVIDIA H100 80GB HBM3 of a long name", mig=True)),
    None,
    {
        "a-name-of-thirty-two-characters-x": agent(
            102, prompt_tokens=98_765_432, generation_tokens=2e4, prefix_hits=1, prefix_queries=4
        ),
        "exited": AgentSample(Container("exited", "exited"), 102, None, "exited", None),
    },
)


def test_eighty_columns_are_enough() -> None:
    before = replace(
        FULL, agents={name: replace(one, taken=100) for name, one in FULL.agents.items()}
    )
    text = drawn(
        {
            "gpu1.rack-seven.example.com": View(before, FULL),
            "gpu2": View(FULL, FULL, "cannot be reached: " + "a long reason " * 20),
            "gpu3": View(),
        }
    )
    assert max(map(len, text)) <= 80
    assert text[2].split() == ["GPU", "NAME", "MEMORY", "USED", "UTIL", "TEMP", "POWER"]
    assert " ".join(text[3].split()) == "0 H200 127.2/140.4 GiB 91% 97% 64 C 612/700 W"
    assert text[8] == "gpu2  no answer, retrying"
    assert text[9].startswith("  cannot be reached: a long reason")
    assert text[9].endswith("…")
    assert " ".join(text[6].split()[1:]) == "healthy 1 0 0.0 0.0 50% 25% 101% 3.0 GiB"
    assert text[7].split() == ["exited", "exited", *["n/a"] * 8]
    assert text[10].split() == ["gpu3", "..."]


def test_a_host_without_an_answer_is_shown_as_such_and_hides_old_numbers() -> None:
    text = drawn({"gpu1": View(FULL, FULL, "no answer within 30 s")})
    assert text[1:] == ["gpu1  no answer, retrying", "  no answer within 30 s"]


def test_what_does_not_fit_is_counted() -> None:
    views = {f"gpu{number}": View(None, FULL) for number in range(1, 9)}
    assert lines(views["gpu1"]) == 7
    text = drawn(views, height=24)
    assert len(text) < 24
    assert text[-1].startswith("and 5 more")
    assert sum(line.startswith("gpu") for line in text) == 3
    assert len(drawn(views, height=1000)) == 1 + 8 * 7


def test_unknown_is_null_for_scripts() -> None:
    found = as_json({"gpu1": View(None, FULL), "gpu2": View(problem="no answer within 30 s")})
    one, gone = found
    assert one["error"] is None
    assert one["gpus"][0]["memory_total_mib"] == 143771
    by_name = {row["agent"]: row for row in one["agents"]}
    assert by_name["exited"]["requests_running"] is None
    assert by_name["exited"]["metrics_error"] == "exited"
    long = by_name["a-name-of-thirty-two-characters-x"]
    assert long["prompt_tokens_per_second"] is None, "there was one look only"
    assert (long["kv_cache_used_percent"], long["prefix_cache_hit_percent"]) == (50, 25)
    assert gone == {
        "host": "gpu2",
        "error": "no answer within 30 s",
        "gpu_error": None,
        "gpus": [],
        "agents": [],
    }
