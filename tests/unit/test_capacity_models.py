"""What the plan makes of models: their weights, their limits, and what it does not know."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.capacity_docs import ANSWERS, files
from tests.unit.capacity_samples import MODEL, agent, changed, one
from tests.unit.samples import settings
from vllm_hosts.capacity import ModelFiles, PlannedGpu, Verdict, plan_host
from vllm_hosts.capacity.estimates import GIB
from vllm_hosts.capacity.fields import UnplannableError
from vllm_hosts.capacity.model_shape import describe
from vllm_hosts.capacity.quantization import quantization
from vllm_hosts.capacity.sizes import weight_size


class TestWeights:
    def test_the_files_size_is_an_estimate(self) -> None:
        model = describe(MODEL, ModelFiles(files("Llama-3.1-8B-Instruct").config, 16060522496))
        for gpus in (1, 2):
            size = weight_size(model, gpus)
            assert (size.bytes, size.exact) == (16060522496 // gpus, False)

    @pytest.mark.parametrize("name", ["Qwen3-8B", "Qwen3-8B-AWQ", "DeepSeek-V2-Lite-Chat"])
    def test_it_is_near_what_vllm_loads(self, name: str) -> None:
        loaded = json.loads(ANSWERS.read_text())[name]["weights"]
        assert weight_size(describe(MODEL, files(name)), 1).bytes == pytest.approx(loaded, rel=0.01)

    def test_without_files_nothing_is_computed(self) -> None:
        plan = one(ModelFiles(files("Qwen3-8B").config))
        assert plan.verdict is Verdict.UNKNOWN
        assert plan.warnings == (
            "the size of org/model's weights is unknown: neither its files nor their index were"
            " found; put model.safetensors.index.json beside its config.json, or have vLLM asked",
        )

    @pytest.mark.parametrize(("words", "part"), [([], 0.5), (["--dtype", "float32"], 1)])
    def test_32_bit_files_are_loaded_in_16(self, words: list[str], part: float) -> None:
        config = changed("Llama-3.1-8B-Instruct", torch_dtype="float32").config
        plan = one(ModelFiles(config, 32121044992), 80 * GIB, extra_args=words)
        assert plan.needs is not None
        assert (plan.needs.weights.bytes, plan.needs.weights.exact) == (32121044992 * part, False)

    def test_layers_that_predict_further_tokens_are_not_loaded(self) -> None:
        config = files("DeepSeek-V3").config
        model = describe(MODEL, ModelFiles(config, 688_586_727_753))
        # In the files 62 layers, on the GPUs 61.
        assert weight_size(model, 1).bytes == 688_586_727_753 * 61 // 62

    @pytest.mark.parametrize("kind", ["fp8", "mxfp8", "bitsandbytes", "moe_wna16"])
    def test_what_quantising_while_loading_makes_is_not_known(self, kind: str) -> None:
        plan = one("Llama-3.1-8B-Instruct", quantization=kind)
        assert plan.verdict is Verdict.UNKNOWN
        assert f"what quantization = '{kind}' makes of org/model while it is" in plan.warnings[0]

    def test_the_kv_cache_may_be_the_files_own(self) -> None:
        scheme = {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8}}
        assert quantization(scheme).cache_bits == 8
        assert quantization({"quant_method": "compressed-tensors"}).cache_bits is None
        for odd in (True, 0, 10**9, "8"):
            with pytest.raises(UnplannableError, match="where a number of bits belongs"):
                quantization({**scheme, "kv_cache_scheme": {"num_bits": odd}})


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
                40960,
            ),
            (
                {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
                163840,
            ),
            ({"max_position_embeddings": 8192, "model_max_length": 131072}, 131072),
            ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 40960),
            ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 40960),
        ],
    )
    def test_rope_scaling(self, changes: dict[str, Any], limit: int) -> None:
        assert describe(MODEL, changed("Qwen3-8B", **changes)).limit == limit

    def test_a_length_above_it_is_probably_refused(self) -> None:
        plan = one("Qwen3-8B", card=80 * GIB, max_model_len=65536)
        assert (plan.verdict, plan.problems) == (Verdict.PROBABLY_NOT, ())
        assert plan.warnings == (
            "agent 'it': max_model_len 65536 exceeds org/model's own limit as its config.json"
            " seems to set it, 40960; set max_model_len to 40960 or lower",
        )

    @pytest.mark.parametrize(
        "changes",
        [
            {"extra_args": ["--hf-overrides", '{"rope_parameters": {}}']},
            {"extra_args": ["--hf-overrides.max_position_embeddings", "65536"]},
            {"env": {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}},
            {"env": {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "True"}},
        ],
    )
    def test_unless_the_user_changes_it(self, changes: dict[str, Any]) -> None:
        assert one("Qwen3-8B", 80 * GIB, max_model_len=65536, **changes).warnings == ()

    def test_longrope_starts_with_the_length_before_it(self) -> None:
        scaling = {"type": "longrope", "short_factor": [], "long_factor": []}
        given = changed(
            "Qwen3-8B",
            max_position_embeddings=131072,
            original_max_position_embeddings=4096,
            rope_scaling=scaling,
        )
        plan = one(given)
        assert plan.needs is not None and plan.needs.length == 4096
        longer = one(given, 80 * GIB, max_model_len=131072)
        assert longer.warnings == () and longer.needs and longer.needs.length == 131072


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
                "has hidden_size = '4096', which is not a number above zero",
            ),
            (changed("Qwen3-8B", architectures=None), "names no architectures"),
            (
                changed("Qwen3-8B", quantization_config={"quant_method": "modelopt"}),
                "quantisation 'modelopt' is not known to the plan",
            ),
            (
                changed("Qwen3-8B", layer_types=["linear_attention"] * 36),
                "has layers of the kind linear_attention, which is not known to the plan",
            ),
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
            ({"extra_args": ["--max-num-seqs", "many"]}, "--max-num-seqs is not a number: 'many'"),
            ({"extra_args": ["-dcp", "2"]}, "sets --decode-context-parallel-size"),
            ({"extra_args": ["--offload-group-size", "2"]}, "sets --offload-group-size"),
            ({"extra_args": ["--load-format", "dummy"]}, "sets --load-format"),
            ({"extra_args": ["--quantization-config", "{}"]}, "sets --quantization-config"),
            ({"extra_args": ["--quantization-config.linear.weight", "x"]}, "sets --quantization-c"),
        ],
    )
    def test_arguments_that_the_plan_does_not_know(
        self, changes: dict[str, Any], words: str
    ) -> None:
        plan = one("Qwen3-8B", **changes)
        assert plan.verdict is Verdict.UNKNOWN
        assert words in plan.warnings[0]

    def test_files_that_are_larger_than_the_card_need_no_more_knowledge(self) -> None:
        config = changed("Qwen3-8B", architectures=["BrandNewForCausalLM"]).config
        plan = one(ModelFiles(config, 60 * GIB))
        assert plan.verdict is Verdict.PROBABLY_NOT and plan.problems == ()
        assert plan.warnings[0].startswith(
            "agent 'it' probably does not fit on GPU 0: the weights of org/model alone are 60.0"
        )
        assert "BrandNewForCausalLM" in plan.warnings[1]
        wide = {**config, "torch_dtype": "float32"}
        kept = one(ModelFiles(wide, 20 * GIB), extra_args=["--dtype", "float32"])
        assert kept.verdict is Verdict.PROBABLY_NOT
        for known in (
            one(ModelFiles(config, 15 * GIB)),
            # 32 bits in the files, and 16 on the card.
            one(ModelFiles(wide, 20 * GIB)),
            one(ModelFiles(config, 60 * GIB), quantization="fp8"),
            one(ModelFiles(config, 60 * GIB), extra_args=["--cpu-offload-gb", "60"]),
        ):
            assert known.verdict is Verdict.UNKNOWN

    def test_what_is_left_out_is_said(self) -> None:
        plan = one("Qwen2.5-7B-Instruct-AWQ", extra_args=["--enable-lora"])
        assert plan.verdict is Verdict.FITS
        assert plan.warnings == ("agent 'it': what --enable-lora adds (adapters) is not counted",)

    def test_gpus_that_are_not_there(self) -> None:
        plan = one("Qwen3-8B", gpus=[0, 5])
        [problem] = plan.problems
        assert problem.startswith("agent 'it' asks for GPU 5, and this host has 0, 1; correct")
        assert plan.verdict is Verdict.DOES_NOT_FIT

    def test_a_card_that_does_not_say_its_memory(self) -> None:
        plan = plan_host(
            settings(agents=[agent()]), {0: PlannedGpu(0, "GB10", None)}, {MODEL: files("Qwen3-8B")}
        ).agents[0]
        assert plan.warnings == ("GPU 0 does not report its memory; set capacity.gpu_memory",)

    def test_quantisation_that_contradicts_the_files(self) -> None:
        with pytest.raises(UnplannableError, match="is quantised with awq, and quantization is"):
            weight_size(describe(MODEL, files("Qwen3-8B-AWQ")), 1, "gptq")
        assert weight_size(describe(MODEL, files("Qwen3-8B-AWQ")), 1, "awq_marlin").bytes > 0
