"""The memory plan: what agents need, what fits, and what is said where it cannot be told."""

from __future__ import annotations

from typing import Any

import pytest

from tests.capacity_docs import files
from tests.unit.samples import settings
from vllm_hosts.capacity import AgentPlan, Gpu, HostPlan, ModelFiles, Verdict, plan_host
from vllm_hosts.capacity.cache import cache
from vllm_hosts.capacity.estimates import GIB, activations
from vllm_hosts.capacity.fields import UnplannableError
from vllm_hosts.capacity.model import describe
from vllm_hosts.capacity.quantization import quantization
from vllm_hosts.capacity.show import as_json, bar, lines
from vllm_hosts.capacity.sizes import weight_size

MODEL = "org/model"
CARD_16 = 16376 * 1024**2


def agent(**changes: Any) -> dict[str, Any]:
    return {"name": "it", "model": MODEL, "port": 8001} | changes


def host(name: str | ModelFiles, *agents: dict[str, Any], card: int = CARD_16) -> HostPlan:
    """Two cards; every agent with the same model."""
    gpus = {index: Gpu(index, "NVIDIA GeForce RTX 4080", card) for index in (0, 1)}
    given = files(name) if isinstance(name, str) else name
    return plan_host(settings(agents=list(agents)), gpus, {MODEL: given})


def one(name: str | ModelFiles, card: int = CARD_16, **changes: Any) -> AgentPlan:
    return host(name, agent(**changes), card=card).agent("it")


def changed(name: str, **changes: Any) -> ModelFiles:
    """A model's configuration with these names changed; None takes one away."""
    config = {**files(name).config, **changes}
    return ModelFiles({key: value for key, value in config.items() if value is not None})


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
        assert plan.verdict is Verdict.DOES_NOT_FIT
        [problem] = plan.problems
        assert problem.startswith("agent 'it' does not fit on GPU 0: needs 16.9 GiB (weights 9.3,")
        assert "KV cache of one sequence of 32768 tokens 6.0" in problem
        assert problem.endswith("has 14.3 (0.92 of 15.5); set max_model_len to 18432 or lower")
        assert one("Qwen2.5-14B-Instruct-AWQ", max_model_len=18432).problems == ()

    def test_what_only_estimates_speak_against_is_no_problem(self) -> None:
        plan = one("Qwen2.5-14B-Instruct-AWQ", max_model_len=20000)
        assert plan.verdict is Verdict.PROBABLY_NOT
        assert plan.problems == ()
        assert "probably does not fit" in plan.warnings[0]

    def test_utilisation_that_leaves_no_memory_is_told_the_one_that_would_do(self) -> None:
        plan = one("Qwen3-8B", card=24 * GIB, gpu_memory_utilization=0.5, max_model_len=4096)
        assert plan.largest_max_model_len is None
        [problem] = plan.problems
        wanted = problem.rpartition("set gpu_memory_utilization to ")[2].removesuffix(" or more")
        again = one(
            "Qwen3-8B", card=24 * GIB, gpu_memory_utilization=float(wanted), max_model_len=4096
        )
        assert again.verdict is Verdict.FITS

    def test_no_setting_helps_where_weights_alone_are_too_large(self) -> None:
        [problem] = one("Llama-3.1-70B-Instruct").problems
        assert problem.endswith("give it more or larger GPUs, or a smaller or quantised model")

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
            assert "set gpu_memory_utilization" not in item.problems[0]

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

    def test_heads_that_cannot_be_divided_are_refused(self) -> None:
        plan = one("Qwen2.5-7B-Instruct", gpus=[0, 1], tensor_parallel_size=2)
        assert not any("divided" in problem for problem in plan.problems)
        three = plan_host(
            settings(agents=[agent(gpus=[0, 1, 2])]),
            {index: Gpu(index, "L40S", 48 * GIB) for index in range(3)},
            {MODEL: files("Qwen2.5-7B-Instruct")},
        ).agents[0]
        assert (
            "the 28 attention heads of org/model cannot be divided among 3 GPUs"
            in (three.problems[0])
        )


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


class TestWeights:
    def test_the_files_size_is_exact_on_one_gpu(self) -> None:
        known = ModelFiles(files("Llama-3.1-8B-Instruct").config, 16060522496)
        model = describe(MODEL, known)
        size = weight_size(model, 1)
        assert (size.bytes, size.exact, size.least) == (16060522496, True, 16060522496)
        assert not weight_size(model, 2).exact
        assert weight_size(model, 2).bytes == pytest.approx(16060522496 / 2, rel=0.001)

    def test_what_is_computed_is_not_called_exact(self) -> None:
        size = weight_size(describe(MODEL, files("Llama-3.1-8B-Instruct")), 1)
        assert not size.exact
        assert size.bytes == pytest.approx(16060522496, rel=0.001)

    def test_32_bit_files_are_loaded_in_16(self) -> None:
        config = changed("Llama-3.1-8B-Instruct", torch_dtype="float32").config
        size = weight_size(describe(MODEL, ModelFiles(config, 32121044992)), 1)
        assert (size.bytes, size.exact) == (16060522496, False)

    def test_layers_that_predict_further_tokens_are_not_loaded(self) -> None:
        config = files("DeepSeek-V3").config
        model = describe(MODEL, ModelFiles(config, 688_586_727_753))
        # In the files 62 layers, on the GPUs 61, and kv_b_proj twice.
        assert 0.97 < weight_size(model, 1).bytes / 688_586_727_753 < 0.99

    def test_modules_that_keep_16_bits_do(self) -> None:
        kind = {"quant_method": "awq", "bits": 4, "group_size": 128}
        all_of_it = changed("Qwen3-8B", quantization_config=kind)
        without = changed(
            "Qwen3-8B", quantization_config={**kind, "modules_to_not_convert": ["self_attn"]}
        )
        smaller, larger = (
            weight_size(describe(MODEL, given), 1).bytes for given in (all_of_it, without)
        )
        attention = 36 * 4096 * 128 * (32 + 8 + 8 + 32)
        assert larger - smaller == pytest.approx(attention * (16 - 4.15625) / 8, rel=1e-6)

    def test_fp8_while_loading_halves_the_linear_layers(self) -> None:
        plan = one("Llama-3.1-8B-Instruct", quantization="fp8")
        assert plan.needs is not None
        assert plan.needs.weights.bytes / GIB == pytest.approx(8.46, abs=0.05)
        assert not plan.needs.weights.exact

    def test_bits_of_each_quantisation(self) -> None:
        awq = {"quant_method": "awq", "bits": 4, "group_size": 128}
        assert quantization(awq).bits == 4.15625
        assert quantization({**awq, "quant_method": "gptq", "group_size": -1}).bits == 4
        assert quantization({"quant_method": "fp8"}).bits == 8
        assert quantization({"quant_method": "mxfp4"}).bits == 4.25
        assert quantization({"quant_method": "bitsandbytes", "load_in_4bit": True}).bits is None
        assert quantization({}).bits == 16


class TestTheModelsOwnLimit:
    @pytest.mark.parametrize(
        ("changes", "limit"),
        [
            ({}, 40960),
            ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, 81920),
            (
                {
                    "rope_scaling": {
                        "rope_type": "yarn",
                        "factor": 4.0,
                        "original_max_position_embeddings": 32768,
                    }
                },
                131072,
            ),
            ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 40960),
            ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 40960),
        ],
    )
    def test_rope_scaling(self, changes: dict[str, Any], limit: int) -> None:
        assert describe(MODEL, changed("Qwen3-8B", **changes)).limit == limit

    def test_a_length_above_it_is_refused(self) -> None:
        plan = one("Qwen3-8B", card=80 * GIB, max_model_len=65536)
        assert plan.problems == (
            "agent 'it': max_model_len 65536 is above the own limit of org/model, 40960;"
            " set max_model_len to 40960 or lower",
        )

    def test_unless_the_user_changes_it(self) -> None:
        words = ["--hf-overrides", '{"rope_parameters": {}}']
        assert one("Qwen3-8B", 80 * GIB, max_model_len=65536, extra_args=words).problems == ()


class TestWhatIsNotKnown:
    @pytest.mark.parametrize(
        ("given", "words"),
        [
            (
                changed("Qwen3-8B", architectures=["BrandNewForCausalLM"]),
                "the architecture BrandNewForCausalLM of org/model is not known to the plan",
            ),
            (
                changed("Qwen3-8B", num_hidden_layers=None),
                "the config.json of org/model has no num_hidden_layers",
            ),
            (
                changed("Qwen3-8B", hidden_size="4096"),
                "has hidden_size = '4096', which is no number above zero",
            ),
            (changed("Qwen3-8B", architectures=None), "names no architectures"),
            (
                changed("Qwen3-8B", layer_types=["linear_attention"] * 36),
                "has layers of the kind linear_attention, which is not known to the plan",
            ),
            (
                changed("Qwen3-8B", quantization_config={"quant_method": "bitsandbytes"}),
                "its files were not seen, and quantisation 'bitsandbytes' cannot be computed",
            ),
            (files("gemma-3-4b-it"), "its part for images cannot be computed"),
            (changed("Qwen3-8B", max_position_embeddings=None), "set max_model_len of agent 'it'"),
        ],
    )
    def test_it_is_said_and_never_guessed(self, given: ModelFiles, words: str) -> None:
        plan = one(given)
        assert plan.verdict is Verdict.UNKNOWN
        assert plan.problems == ()
        [warning] = plan.warnings
        assert words in warning
        assert (plan.needs, plan.cache, plan.largest_max_model_len) == (None, None, None)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"extra_args": ["--cpu-offload-gb", "4"]}, "sets --cpu-offload-gb"),
            ({"extra_args": ["-pp=2"]}, "sets --pipeline-parallel-size"),
            ({"extra_args": ["--kv-cache-dtype", "nvfp4"]}, "--kv-cache-dtype nvfp4, which is not"),
            ({"extra_args": ["--max-num-seqs", "many"]}, "--max-num-seqs is no number: 'many'"),
            ({"quantization": "bitsandbytes"}, "'bitsandbytes' cannot be computed"),
            ({"gpus": [0, 1], "tensor_parallel_size": 1}, "2 GPUs and tensor_parallel_size 1"),
        ],
    )
    def test_arguments_that_the_plan_does_not_know(
        self, changes: dict[str, Any], words: str
    ) -> None:
        plan = one("Qwen3-8B", **changes)
        assert plan.verdict is Verdict.UNKNOWN
        assert words in plan.warnings[0]

    def test_what_is_left_out_is_said(self) -> None:
        plan = one("Qwen2.5-7B-Instruct-AWQ", extra_args=["--enable-lora"])
        assert plan.verdict is Verdict.FITS
        assert plan.warnings == ("agent 'it': what --enable-lora adds (adapters) is not counted",)

    def test_gpus_that_are_not_there(self) -> None:
        plan = one("Qwen3-8B", gpus=[0, 5])
        assert plan.problems == ("agent 'it' asks for GPU 5, and this host has 0, 1",)
        assert plan.verdict is Verdict.DOES_NOT_FIT

    def test_a_card_that_does_not_say_its_memory(self) -> None:
        plan = plan_host(
            settings(agents=[agent()]), {0: Gpu(0, "GB10", None)}, {MODEL: files("Qwen3-8B")}
        ).agents[0]
        assert plan.warnings == (
            "GPU 0 does not say how much memory it has; set capacity.gpu_memory",
        )

    def test_quantisation_that_contradicts_the_files(self) -> None:
        with pytest.raises(UnplannableError, match="is quantised with awq, and quantization is"):
            weight_size(describe(MODEL, files("Qwen3-8B-AWQ")), 1, "gptq")
        assert weight_size(describe(MODEL, files("Qwen3-8B-AWQ")), 1, "awq_marlin").bytes > 0


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
        assert found["verdict"] == "does not fit"
        assert found["largest_max_model_len"] == 18768
        assert found["weights_exact"] is False
        assert all(value is not None for value in found.values())
