"""The lab's model: a tiny, untrained Qwen2 with a chat template. See standins/model."""

from __future__ import annotations

from pathlib import Path

from lab import image, recipe

_SOURCE = Path(__file__).with_name("standins") / "model"


def build() -> Path:
    """The model's folder, as a download from a hub would leave it."""

    def make(folder: Path) -> None:
        image.run_inside(
            ["python3", "/mnt/source/make_model.py", "/mnt/model"],
            "making a tiny model",
            source=_SOURCE,
            model=folder,
        )

    return recipe.keep("model", [*recipe.files_below(_SOURCE), image.VERSION], make)
