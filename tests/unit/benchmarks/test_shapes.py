"""The small models cost what the published ones cost, vision compared with language."""

import pytest

from benchmarks.shapes import (
    PATCHES_PER_TOKEN,
    PUBLISHED,
    SHAPES,
    SIZES,
    VISION_SPEED,
    ShapeName,
    flops_ratio,
    language_flops,
    sizes_of,
    vision_flops,
)
from demo.checkpoint import new_model
from demo.tokenizer import build_tokenizer
from multimodal.preprocessor_config import PreprocessorConfig


@pytest.mark.parametrize("num_patches", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shape_has_the_published_ratio_at_the_speeds_of_this_machine(
    name: ShapeName, num_patches: int
) -> None:
    small = flops_ratio(sizes_of(SHAPES[name]), num_patches)
    published = flops_ratio(PUBLISHED[name], num_patches)
    assert small / VISION_SPEED == pytest.approx(published, rel=0.1)


def test_the_vit_bound_shape_is_the_2b_at_its_largest_image() -> None:
    num_patches = PATCHES_PER_TOKEN * PreprocessorConfig().max_item_tokens
    small = flops_ratio(sizes_of(SHAPES["vit-bound"]), SIZES["1024x768"])
    published = flops_ratio(PUBLISHED["2b"], num_patches)
    assert small / VISION_SPEED == pytest.approx(published, rel=0.1)


def test_operations_are_counted_from_the_weights() -> None:
    spec = SHAPES["vit-bound"]
    model = new_model(spec, build_tokenizer()).model

    def num_weights(module) -> int:
        return sum(p.numel() for p in module.parameters() if p.dim() > 1)

    sizes, visual = sizes_of(spec), model.visual
    assert language_flops(sizes) == 2 * num_weights(model.language_model.layers)
    per_patch = num_weights(visual.patch_embed) + num_weights(visual.blocks)
    per_token = num_weights(visual.merger) + num_weights(visual.deepstack_merger_list)
    assert vision_flops(sizes, 0) == 2 * (PATCHES_PER_TOKEN * per_patch + per_token)
