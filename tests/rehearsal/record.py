"""Rehearses cases and published models in the lab's image, and keeps what vLLM answered.

python -m tests.rehearsal.record    (root, the lab's caches; 10 minutes)

Then ``python -m tests.rehearsal.docs`` writes the tables.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from vllm_hosts.rehearsal.container import SCRIPT

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
MODELS = TESTS / "unit" / "models"
RECORDED = TESTS / "unit" / "recorded" / "rehearsal"
ARCHITECTURES = TESTS / "data" / "architectures"
ANSWERS = ARCHITECTURES / "answers.json"
LOGS: list[dict[str, Any]] = yaml.safe_load(
    (TESTS / "unit" / "data" / "published_logs.yaml").read_text()
)
#: Where the folder lies in the image.
INSIDE = "/mnt/rehearsal"
#: What the memory plan has no use for, and vLLM refuses to go without.
_ROPE = {
    "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"beta_fast": 32.0, "beta_slow": 1.0},
}
#: A draft model of one layer, as EAGLE's are.
_EAGLE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 1,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 2048,
    "dtype": "float16",
}


def safe(name: str) -> str:
    """A model's name as a file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_")


@cache
def published() -> dict[str, dict[str, Any]]:
    """Models of the table: name -> kind, config, and what its publisher says of its files."""
    # libyaml's, where PyYAML was built with it, is ten times as quick.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found = {}
    for path in sorted(ARCHITECTURES.glob("*.yaml")):
        for name, entry in yaml.load(path.read_text(), loader).items():
            found[name] = {"kind": path.stem, **entry}
    return found


def config(name: str) -> dict[str, Any]:
    """A configuration of the unit tests, made whole."""
    plain = name.removesuffix("-plain")
    found: dict[str, Any] = json.loads((MODELS / f"{plain}.json").read_text())
    if rope := found.get("rope_scaling"):
        found["rope_scaling"] = _ROPE.get(rope.get("rope_type"), {}) | rope
    if plain != name:
        del found["quantization_config"]
    quantized = found.get("quantization_config", {})
    for group in quantized.get("config_groups", {}).values():
        weights = group["weights"]
        quantized["format"] = "pack-quantized"
        if weights["num_bits"] == 8:
            quantized["format"] = f"{weights['type']}-quantized"
            kind = {"num_bits": 8, "type": weights["type"], "strategy": "token"}
            group["input_activations"] = kind | {"dynamic": True, "symmetric": True}
    return found


def prepare(folder: Path) -> None:
    """Lay out what the image needs: the script, configurations, cases."""
    for part in ("models", "answers"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for path in (SCRIPT, HERE / "forks.py"):
        (folder / path.name).write_text(path.read_text())
    _model(folder, "eagle", _EAGLE)
    lines = [*_cases(folder), *_published(folder), *_logged(folder)]
    (folder / "cases").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _cases(folder: Path) -> Iterator[dict[str, Any]]:
    for name, case in yaml.safe_load((HERE / "cases.yaml").read_text()).items():
        model = f"case-{name}"
        given = config(case["model"]) if "model" in case else case.get("config")
        _model(folder, model, given)
        yield {
            "name": model,
            "words": [f"{INSIDE}/models/{model}", *case.get("words", [])],
            "env": case.get("env", {}),
            "request": {"memory": case.get("memory"), "others": case.get("others", [0])},
        }


def _published(folder: Path) -> Iterator[dict[str, Any]]:
    for name, entry in published().items():
        model = f"model-{safe(name)}"
        _model(folder, model, entry["config"])
        # Their files have a folder that says so, beside config.json.
        yield _plain(model, *(["--runner", "pooling"] if entry["kind"] == "embedding" else []))


def _logged(folder: Path) -> Iterator[dict[str, Any]]:
    wanted = {(path.stem, 1) for path in MODELS.glob("*.json")}
    wanted |= {(log["model"], log.get("tp", 1)) for log in LOGS}
    for name, ranks in sorted(wanted):
        model = f"model-{at(name, ranks)}"
        _model(folder, model, config(name))
        yield _plain(model, *(["--tensor-parallel-size", str(ranks)] if ranks > 1 else []))


def at(model: str, ranks: int) -> str:
    """The name of a model that is spread over so many GPUs."""
    return model if ranks == 1 else f"{model} on {ranks}"


def _plain(model: str, *words: str) -> dict[str, Any]:
    return {
        "name": model,
        "words": [f"{INSIDE}/models/{model}", *words],
        "request": {"memory": None, "others": []},
    }


def _model(folder: Path, name: str, given: dict[str, Any] | None) -> None:
    place = folder / "models" / name
    place.mkdir(exist_ok=True)
    if given is not None:
        (place / "config.json").write_text(json.dumps(given))


def collect(folder: Path) -> None:
    """Keep the answers: those of cases for the unit tests, those of models for the tables."""
    RECORDED.mkdir(parents=True, exist_ok=True)
    models = {}
    for path in sorted((folder / "answers").glob("*.json")):
        answer = json.loads(path.read_text())
        kind, _, name = path.stem.partition("-")
        if kind == "case":
            (RECORDED / f"{name}.json").write_text(json.dumps(answer, indent=1) + "\n")
        else:
            models[name] = answer
    lines = [f"{json.dumps(name)}: {json.dumps(models[name])}" for name in sorted(models)]
    ANSWERS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main() -> None:
    """Do it all, in the image that the lab built."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder)
        answer(folder)
        collect(folder)


def answer(folder: Path) -> None:
    """Have the lab's image answer all cases of a folder that have no answer there yet."""
    from lab import image

    words = ["nice", "-n", "19", "python3", f"{INSIDE}/forks.py"]
    words += [f"{INSIDE}/{name}" for name in ("rehearse.py", "cases", "answers")]
    offline = ["env", "HF_HUB_OFFLINE=1", "TORCHDYNAMO_DISABLE=1", "PYTHONPATH=/mnt/vision"]
    image.run_inside(
        [*offline, "unshare", "-n", *words],
        "rehearsing models",
        rehearsal=folder,
        vision=image.vision(),
    )


if __name__ == "__main__":
    main()
