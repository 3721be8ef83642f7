"""What vLLM itself says of an agent before it runs: whether it takes the arguments, and what fits.

One file, for an agent's own image, and the only one of ours there: it is sent over standard input
to ``python3 - REQUEST WORD...``, where the words are the agent's, as for ``vllm serve``. It needs
the model's small files (config.json and what lies beside it), no weights, network, key or memory
of a GPU: layers are built on PyTorch's meta device, and vLLM is asked about them.

A refusal is vLLM's own sentence, from the code that would end its start. Wherever vLLM is made in
another way than this file knows, the answer is that it could not be rehearsed, never a figure.

REQUEST is JSON: ``mark`` stands around the answer, ``seconds`` end the process, ``memory`` is what
one GPU has for programs (null: not known), ``others`` are sums of what else is taken there, for
each of which vLLM is asked about the rest: a number, or a list of what to add for all, for each
sequence and word of the vocabulary, and for each token of a step and width of the model. All sizes
are in bytes.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib
import json
import math
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

FORMAT = 1
#: Characters of a sentence; items of a list.
SENTENCE, MOST = 1200, 64
#: Kernels keep quantised weights in another shape than their files. No refusal for so small a part.
SPARE = 32
#: The groups of parallel_state, and how many ranks of each a setting makes.
GROUPS: dict[str, Callable[[Any], int]] = {
    "_TP": lambda p: p.tensor_parallel_size,
    "_PP": lambda p: p.pipeline_parallel_size,
    "_DP": lambda p: p.data_parallel_size,
    "_PCP": lambda p: p.prefill_context_parallel_size,
    "_DCP": lambda p: p.decode_context_parallel_size,
    "_EP": lambda p: (
        p.data_parallel_size * p.prefill_context_parallel_size * p.tensor_parallel_size
    ),
}
#: Where a mistake of this file would look like one of the user's.
OURS = ("distributed/parallel_state.py", "forward_context.py")


class RefusedError(Exception):
    """vLLM would end here."""


class UnknownError(Exception):
    """This cannot be rehearsed."""


def main() -> None:
    """Answer one request, whatever happens."""
    answer: dict[str, Any] = {"format": FORMAT, "unknown": {}}
    out, request = os.dup(1), {}
    # What vLLM and a model's own code print is not the answer.
    os.dup2(2, 1)
    try:
        request = json.loads(sys.argv[1])
        signal.alarm(int(request["seconds"]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        rehearse(request, sys.argv[2:], answer)
    except RefusedError as refusal:
        answer["refused"] = refusal.args[0]
    except UnknownError as reason:
        answer["unknown"]["all"] = reason.args[0]
    except BaseException as error:
        answer["unknown"]["all"] = sentence(error)
    mark = str(request.get("mark", ""))
    os.write(out, f"\n{mark}{json.dumps(answer)}{mark}\n".encode())
    # Threads of libraries may not end, and nothing here is to be cleaned up.
    os._exit(0)


def rehearse(request: dict[str, Any], words: list[str], answer: dict[str, Any]) -> None:
    """Fill in the answer, stage by stage; what a stage could not find stays out of it."""
    # Where the image starts is not where `vllm serve` finds its modules.
    sys.path[:] = [path for path in sys.path if path not in ("", str(Path.cwd()))]
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    arguments = stage("arguments", parse, words)
    answer["vllm"] = text(importlib.import_module("vllm").__version__)
    config = stage("configuration", configure, arguments)
    stage("configuration", describe, config, answer)
    try:
        workers = stage("model", build, config, answer)
        engine = stage("cache", weigh_cache, config, [specs for _, specs in workers], answer)
        stage("cache", fit, request, engine, answer)
    except UnknownError as reason:
        answer["unknown"]["memory"] = reason.args[0]


# What vLLM makes of arguments


def parse(words: list[str]) -> Any:
    """The arguments as ``vllm serve`` reads and checks them."""
    serve = importlib.import_module("vllm.entrypoints.cli.serve")
    tools = importlib.import_module("vllm.utils.argparse_utils")

    def error(self: argparse.ArgumentParser, message: str) -> NoReturn:
        raise RefusedError({"stage": "arguments", "sentence": text(message)})

    argparse.ArgumentParser.error = error  # type: ignore[method-assign]
    # vLLM reads both places.
    sys.argv = ["vllm", "serve", *words]
    parser = tools.FlexibleArgumentParser(prog="vllm")
    command = serve.cmd_init()[0]
    command.subparser_init(parser.add_subparsers(required=False, dest="subparser"))
    try:
        arguments = parser.parse_args(sys.argv[1:])
    except SystemExit as end:
        # Such as --help, which prints something and ends.
        said = f"with these arguments it ends with exit code {end.code or 0} before it serves"
        raise RefusedError({"stage": "arguments", "sentence": said}) from None
    command.validate(arguments)
    if getattr(arguments, "model_tag", None) is not None:
        arguments.model = arguments.model_tag
    return arguments


def configure(arguments: Any) -> Any:
    """The configuration of the engine, which checks model, lengths, parsers and quantisation."""
    check_parsers(arguments)
    inspect_here()
    engine = importlib.import_module("vllm.engine.arg_utils").AsyncEngineArgs
    context = importlib.import_module("vllm.usage.usage_lib").UsageContext
    made = engine.from_cli_args(arguments)
    if not any((Path(made.model) / name).exists() for name in ("config.json", "params.json")):
        raise UnknownError(f"{made.model} has no config.json")
    return made.create_engine_config(usage_context=context.OPENAI_API_SERVER)


def check_parsers(arguments: Any) -> None:
    """Names of parsers, which the server checks beside the engine."""
    for place in ("launchers.launcher", "openai.api_server"):
        try:
            module = importlib.import_module(f"vllm.entrypoints.{place}")
            check = module.validate_api_server_args
        except (ImportError, AttributeError):
            continue
        for kind in ("ToolParserManager", "ReasoningParserManager"):
            name = f"{'tool' if kind[0] == 'T' else 'reasoning'}_parser"
            plugin = getattr(arguments, f"{name}_plugin", None)
            if plugin and len(plugin) > 3:
                getattr(getattr(module, kind), f"import_{name}")(plugin)
        check(arguments)
        return
    raise UnknownError("this vLLM checks names of parsers elsewhere")


def inspect_here() -> None:
    """Have vLLM inspect a model's class in this process, not in one that imports all anew."""
    registry: Any = importlib.import_module("vllm.model_executor.models.registry")
    if hasattr(registry, "_run_in_subprocess"):
        registry._run_in_subprocess = lambda function: function()


def describe(config: Any, answer: dict[str, Any]) -> None:
    """What the configuration itself says."""
    model, cache, parallel = config.model_config, config.cache_config, config.parallel_config
    answer.update(
        platform=text(config.device_config.device_type),
        architecture=text(model.architecture),
        dtype=text(model.dtype).removeprefix("torch."),
        quantization=text(model.quantization) if model.quantization else None,
        max_model_len=count(model.max_model_len),
        auto_length=model.original_max_model_len == -1,
        batched_tokens=count(config.scheduler_config.max_num_batched_tokens),
        sequences=count(config.scheduler_config.max_num_seqs),
        ranks={name: count(size(parallel)) for name, size in GROUPS.items()},
        cache_dtype=text(cache.cache_dtype),
        prefix_caching=bool(cache.enable_prefix_caching),
        hidden=count(model.get_hidden_size()),
        vocabulary=count(model.get_vocab_size()),
        utilization=float(cache.gpu_memory_utilization),
        cache_bytes=count(cache.kv_cache_memory_bytes or 0) or None,
    )


# What vLLM's classes take


def build(config: Any, answer: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """For each pipeline stage the bytes of its weights and what its layers keep in the cache."""
    parallel = config.parallel_config
    if getattr(parallel, "nnodes", 1) > 1:
        raise UnknownError("several hosts as one vLLM are not rehearsed")
    for name in ("enable_elastic_ep", "enable_eplb"):
        if getattr(parallel, name, False):
            raise UnknownError(f"{name} is not rehearsed")
    if getattr(config, "engram_config", None) is not None and parallel.world_size > 1:
        raise UnknownError("n-gram tables on several GPUs are not rehearsed")
    state = world_of_one()
    stages = range(parallel.pipeline_parallel_size)
    if len(stages) > 16:
        raise UnknownError(f"{len(stages)} pipeline stages are not rehearsed")
    workers = []
    for number in stages:
        believe(state, parallel, number)
        config.compilation_config.static_forward_context.clear()
        models, missing = models_of(config)
        answer["unknown"].update(missing)
        workers.append((sum(map(weigh, models)), cache_specs(config)))
        answer["parameters"] = count(sum(map(weigh_parameters, models)))
        if any(uses_meta(module) for model in models for module in model.modules()):
            answer["unknown"]["weights"] = "they are quantised while they are loaded"
        del models
        gc.collect()
    if files_decide(config):
        answer["unknown"]["weights"] = "which layers are quantised is told by the model's files"
    if offloads(config):
        answer["unknown"]["weights"] = "a part of them is kept in main memory"
    if answer["unknown"].keys() & {"weights", "draft"}:
        del answer["parameters"]
    else:
        answer["weights"] = max(count(size) for size, _ in workers)
        answer["stages"] = [count(size) for size, _ in workers]
    if "draft" in answer["unknown"]:
        raise UnknownError(answer["unknown"].pop("draft"))
    return workers


def world_of_one() -> Any:
    """vLLM's groups of processes, each with this one alone: nothing is sent to anybody."""
    state = importlib.import_module("vllm.distributed.parallel_state")
    configs = importlib.import_module("vllm.config")
    with configs.set_current_vllm_config(configs.VllmConfig()):
        # A file, and no port that somebody else may have.
        place = f"file:///tmp/rehearsal-{os.getpid()}"
        state.init_distributed_environment(1, 0, place, 0, backend="gloo")
        state.initialize_model_parallel(backend="gloo")
    return state


def believe(state: Any, parallel: Any, number: int) -> None:
    """Let this process believe in the other ranks: layers are then built for its own share."""
    for name, size in GROUPS.items():
        group, ranks = getattr(state, name), size(parallel)
        own = number if name == "_PP" else 0
        group.world_size, group.rank_in_group = ranks, own
        group.ranks, group.rank = list(range(ranks)), own


def keep_maps_here(torch: Any) -> None:
    """Lists of experts, whose content vLLM reads while it builds: not on the meta device."""
    try:
        place = "vllm.model_executor.layers.fused_moe.expert_map_manager"
        manager = importlib.import_module(place).ExpertMapManager
    except (ImportError, AttributeError):
        return
    make = manager.__init__

    def make_here(self: Any, *values: Any, **named: Any) -> None:
        with torch.device("cpu"):
            make(self, *values, **named)

    if not getattr(make, "here", False):
        make_here.here = True  # type: ignore[attr-defined]
        manager.__init__ = make_here


def check_loader(config: Any) -> None:
    """The format of files, which vLLM checks as it makes their loader; nothing is read."""
    loading = importlib.import_module("vllm.model_executor.model_loader")
    try:
        loading.get_model_loader(config.load_config)
    except ValueError:
        raise
    except Exception:
        # A loader that wants more than there is here is no reason to leave the rest unasked.
        return


def models_of(config: Any) -> tuple[list[Any], dict[str, str]]:
    """The model, and the one that drafts for it; and what could not be built."""
    torch = importlib.import_module("torch")
    loading = importlib.import_module("vllm.model_executor.model_loader.base_loader")
    types = importlib.import_module("vllm.utils.torch_utils")
    current = importlib.import_module("vllm.config").set_current_vllm_config
    meta = torch.device("meta")
    found: list[Any] = []

    def load_model(loader: Any, vllm_config: Any, model_config: Any, prefix: str = "") -> Any:
        with types.set_default_torch_dtype(model_config.dtype), meta:
            found.append(
                loading.initialize_model(
                    vllm_config=vllm_config, model_config=model_config, prefix=prefix
                )
            )
        return found[-1]

    keep_maps_here(torch)
    check_loader(config)
    # The loader of every format, and of draft models too, but nothing is read.
    loading.BaseModelLoader.load_model = load_model
    loader = loading.BaseModelLoader
    missing: dict[str, str] = {}
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(current(config))
        model = load_model(loader, config, config.model_config)
        if config.lora_config is not None:
            found[-1] = model = with_adapters(model, config, meta)
        if config.speculative_config is not None:
            try:
                if draft(model, config, meta):
                    # Whether it brings its own embeddings is known once its files are read.
                    missing["weights"] = "what the draft model shares is told by its files"
            except Exception as error:
                missing["draft"] = f"the draft model: {sentence(error)}"
    return found, missing


def with_adapters(model: Any, config: Any, device: Any) -> Any:
    """The model with room for adapters, as vLLM's worker makes it."""
    mixin = importlib.import_module("vllm.v1.worker.lora_model_runner_mixin")
    return mixin.LoRAModelRunnerMixin.load_lora_model(SimpleNamespace(), model, config, device)


def draft(model: Any, config: Any, device: Any) -> bool:
    """Have vLLM's own proposer build what it drafts with, so that its layers join the target's.

    :returns: whether there is such a model.
    """
    speculative = config.speculative_config
    if speculative.method in ("ngram", "ngram_gpu", "suffix"):
        return False
    if config.use_v2_model_runner:
        make = importlib.import_module("vllm.v1.worker.gpu.spec_decode").init_speculator
        with device:
            make(config, device, None).load_model(model)
        return True
    runner = importlib.import_module("vllm.v1.worker.gpu_model_runner")
    for own in ("use_gemma4_mtp", "use_step3p5_mtp", "use_dflash"):
        if getattr(speculative, own)():
            raise UnknownError(f"{speculative.method} is not rehearsed")
    with device:
        if speculative.uses_draft_model():
            proposer = runner.DraftModelProposer(config, device, None)
        elif speculative.use_eagle():
            proposer = runner.EagleProposer(config, device, None)
        else:
            raise UnknownError(f"{speculative.method} is not rehearsed")
    proposer._get_model()
    return True


def weigh(model: Any) -> int:
    """Bytes on one GPU: parameters and buffers once each, and tensors that modules hold."""
    held: dict[int, int] = {}
    for module in model.modules():
        for tensor in tensors(list(vars(module).values()), 4):
            # What a layer puts into main memory by itself is no memory of the GPU.
            if tensor.device.type != "cpu":
                storage = tensor.untyped_storage()
                held[storage._cdata] = storage.nbytes()
    return sum(held.values())


def weigh_parameters(model: Any) -> int:
    """Bytes of what files have; the rest are tables that a layer makes, such as for positions."""
    held = {id(one): one.numel() * one.element_size() for one in model.parameters()}
    return sum(held.values())


def tensors(values: Iterable[Any], depth: int) -> Iterator[Any]:
    """The tensors among values, and in lists and dictionaries there."""
    torch = importlib.import_module("torch")
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif depth and isinstance(value, (list, tuple)):
            yield from tensors(value, depth - 1)
        elif depth and type(value) is dict:
            yield from tensors(value.values(), depth - 1)


def uses_meta(module: Any) -> bool:
    """Whether a layer's weights come into being while they are loaded, by vLLM's own mark."""
    return bool(getattr(getattr(module, "quant_method", None), "uses_meta_device", False))


def files_decide(config: Any) -> bool:
    """Whether this vLLM takes layers of GPTQ for not quantised where it sees no files.

    On an H200 vLLM 0.26 counted three times what Qwen2.5-14B-Instruct-GPTQ-Int4 takes. Later ones
    take all of its layers for quantised.
    """
    if getattr(config.quant_config, "modules_in_block_to_quantize", None) != []:
        return False
    place = "vllm.model_executor.layers.quantization.utils.gptq_utils"
    ask_engine = getattr(importlib.import_module(place), "is_layer_gptq_quantized", None)
    return ask_engine is None or not ask_engine("model.layers.0.mlp.up_proj", [])


def offloads(config: Any) -> bool:
    """Whether arguments keep a part of the weights in main memory."""
    offload = getattr(config, "offload_config", None)
    if offload is None:
        return False
    return bool(offload.uva.cpu_offload_gb > 0 or offload.prefetch.offload_group_size > 0)


def cache_specs(config: Any) -> dict[str, Any]:
    """What each layer keeps, from the function that vLLM's own worker calls."""
    if config.use_v2_model_runner:
        utils = importlib.import_module("vllm.v1.worker.gpu.attn_utils")
        return dict(utils.get_kv_cache_spec(config))
    runner = importlib.import_module("vllm.v1.worker.gpu_model_runner").GPUModelRunner
    stub = SimpleNamespace(vllm_config=config, shared_kv_cache_layers={})
    return dict(runner.get_kv_cache_spec(stub))


# What vLLM says of the cache


class Engine:
    """The engine's own start, with an executor that answers what is asked here.

    It resolves the layout, groups the layers and checks the memory as it would at its start, and
    raises what it would raise; so nothing of that is repeated in this file.
    """

    def __init__(self, config: Any, specs: list[dict[str, Any]]) -> None:
        self.config, self.specs, self.room = config, specs, 0
        self.core = importlib.import_module("vllm.v1.engine.core").EngineCore
        worker = importlib.import_module("vllm.v1.worker.worker_base").WorkerBase
        # vLLM 0.32 asks for it, 0.26 does not have it.
        ask_engine: Any = getattr(worker, "get_supported_kv_cache_layouts", lambda _: [])
        supported = ask_engine(SimpleNamespace(vllm_config=config))
        self.executor = SimpleNamespace(
            get_kv_cache_specs=lambda: copy.deepcopy(self.specs),
            get_supported_kv_cache_layouts=lambda: [supported] * len(specs),
            determine_available_memory=lambda: [self.room] * len(specs),
            set_kv_cache_layout=lambda *values: None,
            initialize_from_config=lambda *values: None,
            compile_or_warm_up_model=lambda *values: None,
        )

    def start(
        self, room: int, length: int | None = None, *, shorten: bool = False
    ) -> tuple[Any, int, float | None]:
        """The cache's configuration in so many bytes, and the length that it then has.

        :param shorten: as with ``--max-model-len auto``.
        """
        model, cache = self.config.model_config, self.config.cache_config
        kept = dict(vars(cache)), model.max_model_len, model.original_max_model_len
        self.room = room
        model.max_model_len = length or model.max_model_len
        model.original_max_model_len = -1 if shorten else model.max_model_len
        stub = SimpleNamespace(model_executor=self.executor, collective_rpc=lambda *a, **k: None)
        try:
            made = self.core._initialize_kv_caches(stub, self.config)
            times = getattr(cache, "kv_cache_max_concurrency", None)
            return made, model.max_model_len, times
        finally:
            vars(cache).update(kept[0])
            model.max_model_len, model.original_max_model_len = kept[1:]

    def least(self, length: int | None = None) -> int:
        """The smallest room that vLLM takes for one sequence of that length, to the byte."""
        low, high = 0, 1 << 24
        while not self.takes(high, length):
            low, high = high, high * 4
            if high > 1 << 50:
                raise UnknownError("vLLM takes no room for the cache, however large")
        while high - low > 1:
            middle = (low + high) // 2
            if self.takes(middle, length):
                high = middle
            else:
                low = middle
        return high

    def takes(self, room: int, length: int | None = None) -> bool:
        """Whether vLLM starts with so many bytes for the cache."""
        try:
            self.start(room, length)
        except ValueError:
            return False
        return True


def weigh_cache(config: Any, specs: list[dict[str, Any]], answer: dict[str, Any]) -> Engine:
    """Bytes for one sequence, and how the cache is cut."""
    engine = Engine(config, specs)
    if not any(specs):
        answer.update(cache=0, cache_token=0, groups=[])
        return engine
    if config.cache_config.num_gpu_blocks_override is not None:
        raise UnknownError("--num-gpu-blocks-override sets the cache, whatever there is")
    length = config.model_config.max_model_len
    answer["cache"] = engine.least()
    made = engine.start(answer["cache"])[0]
    answer["groups"] = [
        {
            "kind": type(group.kv_cache_spec).__name__,
            "layers": len(group.layer_names),
            "block_size": count(group.kv_cache_spec.block_size),
        }
        for group in made.kv_cache_groups[:MOST]
    ]
    # Whole blocks of every group, so that rounding to them takes no part.
    unit = 2 * math.lcm(*(group.kv_cache_spec.block_size for group in made.kv_cache_groups))
    if top := length // unit * unit:
        answer["cache_token"] = (engine.least(top) - engine.least(top // 2)) / (top / 2)
    return engine


def fit(request: dict[str, Any], engine: Engine, answer: dict[str, Any]) -> None:
    """For each sum that something else takes: what is left, and what vLLM says of it."""
    memory, fixed = request.get("memory"), answer.get("cache_bytes")
    if not any(engine.specs) or (not fixed and ("weights" not in answer or memory is None)):
        return
    rooms: list[dict[str, Any]] = []
    answer["rooms"] = rooms
    for what in request.get("others", [])[:8]:
        other = estimated(what, answer) if isinstance(what, list) else int(what)
        room = fixed or left(memory, other, answer)
        rooms.append({"other": other, "room": room, **ask_engine(engine, room)})


def estimated(parts: list[int], answer: dict[str, Any]) -> int:
    """A sum whose parts grow with what vLLM decided itself."""
    whole, word, width = map(int, parts)
    drawing = word * answer["sequences"] * answer["vocabulary"]
    return count(whole + drawing + width * answer["batched_tokens"] * answer["hidden"])


def left(memory: Any, other: int, answer: dict[str, Any]) -> int:
    """Bytes for the cache, where so many are taken beside the weights."""
    weights: int = answer["weights"]
    if not other and answer["quantization"]:
        weights -= weights // SPARE
    return int(memory * answer["utilization"]) - weights - other


def ask_engine(engine: Engine, room: int) -> dict[str, Any]:
    """vLLM's answer to so many bytes for the cache."""
    try:
        _, length, times = engine.start(room)
        return {"fits": True, "longest": length, "times": times and round(times, 3)}
    except ValueError as error:
        said = sentence(error)
    try:
        _, longest, _ = engine.start(room, shorten=True)
    except ValueError:
        longest = 0
    return {"fits": False, "longest": longest, "sentence": said}


# How it ends


def stage(name: str, function: Callable[..., Any], *values: Any) -> Any:
    """Run a stage; what it raises is a refusal only where vLLM itself raised it on purpose."""
    try:
        return function(*values)
    except (RefusedError, UnknownError):
        raise
    except Exception as error:
        if on_purpose(name, error):
            raise RefusedError({"stage": name, "sentence": sentence(error)}) from error
        raise UnknownError(f"{name}: {sentence(error)}") from error


def on_purpose(name: str, error: Exception) -> bool:
    """Whether this ends `vllm serve` too, rather than being owed to how it is asked here."""
    frames = traceback.extract_tb(error.__traceback__)
    files = [frame.filename.partition("/vllm/")[2] for frame in frames]
    inner = next((file for file in reversed(files) if file), "")
    if name == "cache" or inner in OURS or "failed to be inspected" in str(error):
        return False
    if of_pydantic(error):
        return True
    # Not what PyTorch raises of tensors without content, or Python of a mistake.
    said = (frames[-1].line or "").startswith("raise ") and bool(str(error).strip())
    if name != "model":
        return said and isinstance(error, (ValueError, TypeError, KeyError, NotImplementedError))
    if files[-1] == "distributed/utils.py":
        return isinstance(error, AssertionError)
    return said and bool(files[-1]) and isinstance(error, (ValueError, NotImplementedError))


def of_pydantic(error: BaseException) -> bool:
    """Whether a check of vLLM's configuration classes failed."""
    return type(error).__module__.partition(".")[0] in ("pydantic", "pydantic_core")


def sentence(error: BaseException) -> str:
    """What an exception says, in one line."""
    errors = getattr(error, "errors", None)
    if of_pydantic(error) and errors:
        # Without pydantic's address of a help page, and without the whole input.
        found = [
            ".".join(map(str, item.get("loc", ()))) + ": " + str(item.get("msg", ""))
            for item in errors()[:4]
        ]
        found = [part.removeprefix(": ").removeprefix("Value error, ") for part in found]
        return text("; ".join(found))
    said = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text(said.strip() or type(error).__name__)


def text(value: object) -> str:
    """One line of bounded length."""
    return " ".join(str(value).split())[:SENTENCE]


def count(value: Any) -> int:
    """A number that can be one of bytes or tokens."""
    found = int(value)
    if not 0 <= found < 1 << 60:
        raise UnknownError(f"vLLM counts {found}")
    return found


if __name__ == "__main__":
    main()
