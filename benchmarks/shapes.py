"""Small models in which vision and language cost as much of each other as in published ones.

    python -m benchmarks.shapes

prints the ratios of both; README.md tells how they were chosen.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from blake3 import blake3

from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint

ShapeName = Literal["2b", "8b", "vit-bound"]
SHAPE_NAMES: tuple[ShapeName, ...] = get_args(ShapeName)
PATCHES_PER_TOKEN = 4  # 2 x 2 ViT patches are merged into one language token
# Of the small models, on two cores of an AMD EPYC: operations per second of vision / of language.
VISION_SPEED = 0.41
SIZES = {"640x480": 1200, "1024x768": 3072, "1920x1080": 8160}  # ViT patches
_PATCH_VALUES = 3 * 2 * 16 * 16  # channels * frames * patch**2
_NUM_DEEPSTACK = 3


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What the cost of one token depends on. `*_attention`: heads * head_dim."""

    vision_hidden: int
    vision_intermediate: int
    vision_depth: int
    hidden: int
    intermediate: int
    num_layers: int
    query_attention: int
    key_attention: int


PUBLISHED = {
    "2b": ModelSizes(1024, 4096, 24, 2048, 6144, 28, 2048, 1024),
    "8b": ModelSizes(1152, 4304, 27, 4096, 12288, 36, 4096, 1024),
}


def main() -> None:
    print("| | " + " | ".join(SIZES) + " |")
    print("|---" * (1 + len(SIZES)) + "|")
    for name, spec in SHAPES.items():
        if name in PUBLISHED:
            _print_ratios(f"{name}, published", PUBLISHED[name], speed=1)
        _print_ratios(f"{name}, here", sizes_of(spec), VISION_SPEED)


def _print_ratios(name: str, sizes: ModelSizes, speed: float) -> None:
    ratios = (flops_ratio(sizes, num_patches) / speed for num_patches in SIZES.values())
    print(f"| {name} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")


def vision_flops(sizes: ModelSizes, num_patches: int) -> int:
    """Of the vision tower for one language token of an image of `num_patches` ViT patches."""
    width = sizes.vision_hidden
    block = 2 * (4 * width**2 + 2 * width * sizes.vision_intermediate) + 4 * num_patches * width
    patch = 2 * _PATCH_VALUES * width + sizes.vision_depth * block
    merged = PATCHES_PER_TOKEN * width
    mergers = (1 + _NUM_DEEPSTACK) * 2 * merged * (merged + sizes.hidden)
    return PATCHES_PER_TOKEN * patch + mergers


def language_flops(sizes: ModelSizes) -> int:
    """Of all layers for one token, without attending to others."""
    attention = 2 * (sizes.query_attention + sizes.key_attention)
    return 2 * sizes.num_layers * sizes.hidden * (attention + 3 * sizes.intermediate)


def flops_ratio(sizes: ModelSizes, num_patches: int) -> float:
    """What the vision tower costs of an image, as a multiple of the language model's part."""
    return vision_flops(sizes, num_patches) / language_flops(sizes)


def sizes_of(spec: CheckpointSpec) -> ModelSizes:
    return ModelSizes(
        spec.vision_hidden_size,
        spec.vision_intermediate_size,
        spec.vision_depth,
        spec.hidden_size,
        spec.intermediate_size,
        spec.num_layers,
        spec.num_heads * spec.head_dim,
        spec.num_kv_heads * spec.head_dim,
    )


_2B = CheckpointSpec(
    is_tied=True,
    template="instruct",
    hidden_size=256,
    intermediate_size=4096,
    num_layers=17,
    num_heads=2,
    num_kv_heads=1,
    head_dim=64,
    mrope_section=(12, 10, 10),
    vision_hidden_size=128,
    vision_intermediate_size=5888,
    vision_depth=_NUM_DEEPSTACK,
    vision_num_heads=2,
    dtype=torch.bfloat16,
    initializer_range=0.02,
)
SHAPES: dict[ShapeName, CheckpointSpec] = {
    "2b": _2B,
    "8b": replace(_2B, hidden_size=512, intermediate_size=7808, num_heads=4, num_kv_heads=2),
    "vit-bound": replace(_2B, intermediate_size=3040, num_layers=_NUM_DEEPSTACK),
}


def checkpoint(folder: Path, name: ShapeName) -> Path:
    """The checkpoint of this shape below `folder`; made if it is not there yet."""
    spec = SHAPES[name]
    digest = blake3(repr(spec).encode()).hexdigest()[:12]
    path = folder / f"{name}-{digest}"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=_made(folder)) as unfinished:
            build_checkpoint(Path(unfinished) / "checkpoint", spec).rename(path)
    return path


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
