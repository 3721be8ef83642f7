"""The memory plan: what agents need of their cards, and what fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.capacity_docs import files, model
from tests.unit.capacity_samples import MODEL, agent, changed, host, one
from tests.unit.samples import settings
from vllm_hosts.capacity import ModelFiles, PlannedGpu, Verdict, plan_host
from vllm_hosts.capacity.estimates import GIB, activations
from vllm_hosts.capacity.kv_cache import cache
from vllm_hosts.capacity.model_shape import describe
from vllm_hosts.capacity.show import as_json, bar, lines
from vllm_hosts.capacity.sizes import weight_size


class TestWhatFits:
    def test_the_longest_context_fits_and_the_next_block_does_not(self) -> None:
        plan = one("Qwen2.5-14B-Instruct-AWQ")
        assert plan.largest_max_model_len is not None
        fits = one("Qwen2.5-14B-Instruct-AWQ", max_model_len=plan.largest_max_model_len)
        assert fits.verdict is Verdict.FITS
        assert fits.sequences == pytest.approx(1, abs=0.01)
        longer = plan.largest_max_model_len + 16
        assert one("Qwen2.5-14B-Instruct-AWQ", max_model_len=longer).verdict is not Verdict.FITS

    def test_a_model_that_cannot_fit_names_the_setting_that_would(self) -> None:
        plan = one("Qwen2.5-14B-Instruct-AWQ")
        assert plan.verdict is Verdict.PROBABLY_NOT and plan.problems == ()
        [problem] = plan.warnings
        assert problem.startswith(
            "agent 'it' probably does not fit on GPU 0: needs 16.9 GiB (weights 9.3,"
        )
        assert "KV cache of one sequence of 32768 tokens 6.0" in problem
        assert problem.endswith("has 14.3 (0.92 of 15.5); set max_model_len to 18432 or lower")
        assert one("Qwen2.5-14B-Instruct-AWQ", max_model_len=18432).warnings == ()

    def test_utilisation_that_leaves_no_memory_is_told_the_one_that_would_do(self) -> None:
        plan = one("Qwen3-8B", card=24 * GIB, gpu_memory_utilization=0.5, max_model_len=4096)
        assert plan.largest_max_model_len is None
        [problem] = plan.warnings
        wanted = problem.rpartition("set gpu_memory_utilization to ")[2].removesuffix(" or more")
        again = one(
            "Qwen3-8B", card=24 * GIB, gpu_memory_utilization=float(wanted), max_model_len=4096
        )
        assert again.verdict is Verdict.FITS

    def test_no_setting_helps_where_weights_alone_are_too_large(self) -> None:
        plan = one("Llama-3.1-70B-Instruct")
        [problem] = plan.warnings
        assert plan.remedy == "give it more or larger GPUs, or a smaller or quantised model"
        assert problem.endswith(plan.remedy)
        assert one("Qwen2.5-7B-Instruct-AWQ", max_model_len=4096).remedy == ""

    def test_auto_takes_what_fits(self) -> None:
        plan = one("Qwen2.5-14B-Instruct-AWQ", max_model_len="auto")
        assert plan.verdict is Verdict.FITS
        assert plan.needs is not None
        assert plan.needs.length == plan.largest_max_model_len

    def test_an_fp8_cache_holds_twice_as_much(self) -> None:
        usual = one("Qwen2.5-14B-Instruct-AWQ")
        assert usual.largest_max_model_len is not None
        for words in (["--kv-cache-dtype", "fp8"], ["--kv_cache_dtype=fp8_e4m3"]):
            plan = one("Qwen2.5-14B-Instruct-AWQ", extra_args=words)
            assert plan.largest_max_model_len == 32768
            assert plan.verdict is Verdict.FITS
            assert plan.sequences == pytest.approx(2 * (usual.sequences or 0), rel=0.01)

    def test_two_agents_share_a_card_by_their_parts_of_it(self) -> None:
        plan = host(
            "Qwen2.5-7B-Instruct-AWQ",
            agent(gpu_memory_utilization=0.5, max_model_len=4096),
            agent(name="other", port=8002, gpu_memory_utilization=0.4, max_model_len=4096),
        )
        assert [item.verdict for item in plan.agents] == [Verdict.FITS, Verdict.PROBABLY_NOT]
        first, second = (item.budget for item in plan.agents)
        assert first is not None
        assert second == pytest.approx(0.8 * first, rel=1e-6)

    def test_the_remedy_leaves_the_other_agent_its_part(self) -> None:
        plan = host(
            "Qwen3-8B",
            agent(gpu_memory_utilization=0.5, max_model_len=4096),
            agent(name="other", port=8002, gpu_memory_utilization=0.5, max_model_len=4096),
            card=24 * GIB,
        )
        for item in plan.agents:
            assert "set gpu_memory_utilization" not in item.warnings[0]

    def test_eager_agents_capture_no_graphs(self) -> None:
        usual, eager = one("Qwen3-8B"), one("Qwen3-8B", extra_args=["--enforce-eager"])
        assert usual.needs is not None
        assert eager.needs is not None
        assert (usual.needs.graphs > 0, eager.needs.graphs) == (True, 0)

    def test_fewer_sequences_at_once_leave_more_for_the_cache(self) -> None:
        usual = one("Qwen2.5-14B-Instruct-AWQ")
        few = one("Qwen2.5-14B-Instruct-AWQ", extra_args=["--max-num-seqs", "16"])
        assert few.largest_max_model_len > usual.largest_max_model_len  # type: ignore[operator]

    def test_an_agent_without_a_gpu_needs_nothing(self) -> None:
        assert one("Qwen3-8B", gpus=[]).verdict is Verdict.NO_GPU


class TestTensorParallelism:
    def test_weights_and_cache_are_divided(self) -> None:
        model = describe(MODEL, files("Llama-3.1-70B-Instruct"))
        alone, shared = weight_size(model, 1), weight_size(model, 4)
        assert shared.bytes == pytest.approx(alone.bytes / 4, rel=0.001)
        assert cache(model, 1, 16, 2048).block == 4 * cache(model, 4, 16, 2048).block

    def test_more_gpus_than_kv_heads_have_copies(self) -> None:
        model = describe(MODEL, files("Qwen2.5-7B-Instruct"))
        assert model.kv_heads == 4
        assert cache(model, 8, 16, 2048).block == cache(model, 4, 16, 2048).block
        assert weight_size(model, 8).bytes > weight_size(model, 4).bytes / 2

    def test_mla_s_vector_is_on_every_gpu(self) -> None:
        model = describe(MODEL, files("DeepSeek-V3"))
        assert cache(model, 8, 16, 2048).block == cache(model, 1, 16, 2048).block
        # 61 layers, 512 + 64 numbers of 16 bits.
        assert cache(model, 8, 16, 2048).sequence(16) == 16 * 61 * 576 * 2

    def test_kv_heads_are_divided_or_copied_evenly(self) -> None:
        def refused(kv_heads: int) -> bool:
            given = changed("Qwen3-32B", num_attention_heads=60, num_key_value_heads=kv_heads)
            plan = plan_host(
                settings(agents=[agent(gpus=[0, 1, 2, 3, 4, 5])]),
                {index: PlannedGpu(index, "L40S", 48 * GIB) for index in range(6)},
                {MODEL: given},
            ).agents[0]
            return any("KV heads of org/model cannot be divided" in p for p in plan.warnings)

        assert [kv_heads for kv_heads in (12, 6, 3, 2, 4, 10) if refused(kv_heads)] == [4, 10]

    def test_heads_that_cannot_be_divided_are_refused(self) -> None:
        plan = one("Qwen2.5-7B-Instruct", gpus=[0, 1], tensor_parallel_size=2)
        assert not any("divided" in problem for problem in plan.warnings)
        three = plan_host(
            settings(agents=[agent(gpus=[0, 1, 2])]),
            {index: PlannedGpu(index, "L40S", 48 * GIB) for index in range(3)},
            {MODEL: files("Qwen2.5-7B-Instruct")},
        ).agents[0]
        assert (
            "the 28 attention heads of org/model cannot be divided among 3 GPUs"
            in (three.warnings[0])
        )

    def test_mxfp4_s_widths_are_filled_up_on_each_gpu(self) -> None:
        """2880 becomes 2944 on one GPU, and twice 1536 on two; the hidden width 3072."""
        known = describe(MODEL, files("gpt-oss-20b"))
        experts = 24 * 32 * 3
        assert known.padding(1) == experts * (3072 * 2944 - 2880 * 2880)
        assert known.padding(2) == experts * (3072 * 1536 - 2880 * 1440)


class TestTheLongestSequence:
    @given(st.sampled_from(["Qwen3-8B", "gpt-oss-20b", "DeepSeek-V3"]), st.integers(0, 2**37))
    def test_it_fits_and_one_block_more_does_not(self, name: str, available: int) -> None:
        held = cache(model(name), 1, 16, 2048)
        longest = held.longest(available, None)
        if longest is not None:
            assert held.sequence(longest) <= available
            assert held.sequences(available, longest) >= 1
        assert held.sequence((longest or 0) + 16) > available


class TestSlidingWindows:
    def test_layers_with_a_window_stop_growing(self) -> None:
        held = cache(describe(MODEL, files("gpt-oss-20b")), 1, 16, 2048)
        # From here on only the 12 layers without a window grow: 8 heads of 64, 16 bits.
        grown = held.sequence(65536) - held.sequence(32768)
        assert grown == 32768 * 12 * 2 * 8 * 64 * 2

    def test_without_the_hybrid_manager_they_do_not(self) -> None:
        usual = one("gpt-oss-20b", card=24 * GIB)
        plain = one("gpt-oss-20b", card=24 * GIB, extra_args=["--disable-hybrid-kv-cache-manager"])
        assert plain.needs is not None
        assert usual.needs is not None
        assert plain.needs.cache > 1.9 * usual.needs.cache

    def test_gemma_s_pattern_is_known_though_its_file_leaves_it_out(self) -> None:
        windows = describe(MODEL, files("gemma-3-4b-it")).windows
        assert [layer for layer, window in enumerate(windows) if window is None] == [
            *[5, 11, 17, 23, 29]
        ]
        assert {window for window in windows if window} == {1024}


class TestActivations:
    def test_a_long_step_costs_more_than_drawing_tokens(self) -> None:
        """#10517 of vLLM: 1.71 GiB for 20000 tokens at once, and 2.63 for 29000."""
        model = describe(MODEL, files("Llama-3.1-8B-Instruct"))
        assert activations(model, 1, 20000, 1) / GIB == pytest.approx(1.71, rel=0.05)
        assert activations(model, 1, 29000, 1) / GIB == pytest.approx(2.63, rel=0.05)


class TestShowing:
    def test_a_bar_has_a_column_for_each_sixtieth(self) -> None:
        plan = host("Qwen2.5-7B-Instruct-AWQ", agent(max_model_len=4096))
        text = bar(plan, plan.gpus[0])
        assert len(text) == 60
        counts = {letter: text.count(letter) for letter in "WKo."}
        assert counts == {"W": 20, "K": 29, "o": 6, ".": 5}
        assert bar(plan, plan.gpus[1]) == "." * 60

    def test_what_does_not_fit_sticks_out(self) -> None:
        plan = host("Llama-3.1-70B-Instruct", agent())
        assert bar(plan, plan.gpus[0]) == "W" * 60 + ">"

    def test_estimates_are_marked_and_exact_figures_are_not(self) -> None:
        exact = ModelFiles(files("Qwen2.5-7B-Instruct-AWQ").config, 5_574_000_000)
        row = next(line for line in lines(host(exact, agent())) if "it  " in line.text)
        assert row.text.split()[:3] == ["it", "5.2", "~7.5"]
        assert row.text.endswith("fits")
        guessed = host("Qwen2.5-7B-Instruct-AWQ", agent())
        row = next(line for line in lines(guessed) if "it  " in line.text)
        assert row.text.split()[1] == "~5.2"

    def test_everything_fits_80_columns(self) -> None:
        plan = host("Qwen2.5-14B-Instruct-AWQ", agent(name="a" * 14))
        for line in lines(plan):
            assert max(map(len, line.text.splitlines())) < 80, line.text

    def test_json_has_every_figure(self) -> None:
        [found] = as_json(host("Qwen2.5-14B-Instruct-AWQ", agent()))["agents"]
        assert found["verdict"] == "probably not"
        assert found["largest_max_model_len"] == 18768
        assert found["weights_exact"] is False
        assert all(value is not None for value in found.values())
