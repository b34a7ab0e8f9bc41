"""What our model takes, refuses and names when it loads a quantised checkpoint."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.quantised_checkpoints import QuantisedCheckpoint, linears_of
from tests.quantised_kinds import Tensors

LAYER = "model.language_model.layers.1"
PATCH_EMBED = "model.visual.patch_embed.proj"


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def with_tensor(name: str, tensor: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: tensor}


@pytest.mark.parametrize(
    ("kind", "is_moe", "change", "message"),
    [
        (
            "w8a8",
            False,
            without(f"{LAYER}.self_attn.k_proj.weight_scale"),
            r"lacks model\.language_model\.layers\.1\.self_attn\.k_proj\.weight_scale, which its",
        ),
        (
            "awq",
            True,
            without(f"{LAYER}.mlp.experts.3.up_proj.qzeros"),
            r"lacks model\.language_model\.layers\.1\.mlp\.experts\.3\.up_proj\.qzeros, which its",
        ),
        (
            "fp8-block",
            True,
            without(f"{LAYER}.mlp.experts.down_proj_scale_inv"),
            r"lacks model\.language_model\.layers\.1\.mlp\.experts\.down_proj_scale_inv, which its",
        ),
        (
            "gptq",
            False,
            without("model.visual.merger.linear_fc1.weight"),
            r"lacks model\.visual\.merger\.linear_fc1\.weight, which its",
        ),
        ("int4", False, without(f"{PATCH_EMBED}.bias"), r"lacks model\.visual\.patch_embed\.proj"),
        # vLLM drops such a scale without a word, and takes the weight for a plain one
        (
            "fp8-dynamic",
            True,
            with_tensor(f"{LAYER}.mlp.gate.weight_scale", torch.ones(4, 1)),
            r"holds model\.language_model\.layers\.1\.mlp\.gate\.weight_scale, for which",
        ),
        # ModelOpt's names, which vLLM's experts pass over
        (
            "nvfp4",
            True,
            with_tensor(f"{LAYER}.mlp.experts.up_proj.0.weight_packed", torch.zeros(384, 128)),
            r"holds model\.language_model\.layers\.1\.mlp\.experts\.up_proj\.0\.weight_packed",
        ),
        (
            "gptq",
            False,
            with_tensor(f"{LAYER}.mlp.up_proj.qweight", torch.zeros(32, 8, dtype=torch.int32)),
            r"layers\.1\.mlp\.up_proj\.qweight does not fit",
        ),
        (
            "w8a8",
            False,
            with_tensor(f"{PATCH_EMBED}.weight", torch.zeros(128, 3, 2, 16, 16, dtype=torch.int8)),
            r"patch_embed\.proj is quantised \(torch\.int8\)",
        ),
        (
            "fp8-dynamic",
            False,
            with_tensor(
                f"{PATCH_EMBED}.weight", torch.zeros(128, 3, 2, 16, 16, dtype=torch.float8_e4m3fn)
            ),
            r"patch_embed\.proj is quantised \(torch\.float8_e4m3fn\)",
        ),
        (
            "w8a8",
            False,
            with_tensor(f"{PATCH_EMBED}.weight_scale", torch.ones(128, 1)),
            r"visual\.patch_embed: \['proj\.weight_scale'\]",
        ),
    ],
)
def test_a_tensor_that_is_missing_unknown_or_misfit_is_named(
    kind: str,
    is_moe: bool,
    change: Callable[[Tensors], Tensors],
    message: str,
    checkpoint: Callable[[str, bool], QuantisedCheckpoint],
    build: Callable[[Path], Any],
) -> None:
    files = checkpoint(kind, is_moe)
    model = build(files.folder)
    with pytest.raises(ValueError, match=message):
        model.load_weights(iter(change(files.tensors).items()))


@pytest.mark.parametrize("kind", ["int4", "awq"])
def test_what_tools_write_beside_the_weights_is_no_obstacle(
    kind: str,
    checkpoint: Callable[[str, bool], QuantisedCheckpoint],
    build: Callable[[Path], Any],
) -> None:
    files = checkpoint(kind, False)
    extra = {
        f"{LAYER}.self_attn.q_proj.bias": torch.zeros(256),
        f"{LAYER}.self_attn.q_proj.g_idx": torch.zeros(256, dtype=torch.int32),
        f"{LAYER}.self_attn.k_proj.k_scale": torch.ones(1),
        f"{LAYER}.self_attn.rotary_emb.inv_freq": torch.ones(32),
    }
    model = build(files.folder)
    assert model.load_weights(iter((files.tensors | extra).items()))


def test_fused_fp8_experts_may_lie_as_transformers_5_saves_them(
    checkpoint: Callable[[str, bool], QuantisedCheckpoint],
    build: Callable[[Path], Any],
) -> None:
    files = checkpoint("fp8-block", True)
    tensors = files.tensors
    turned = {
        name: tensor.transpose(1, 2) if ".mlp.experts." in name else tensor
        for name, tensor in tensors.items()
    }
    # the scales come first: they do not show how they lie
    turned = dict(sorted(turned.items(), key=lambda item: not item[0].endswith("_scale_inv")))
    model = build(files.folder)
    model.load_weights(iter(turned.items()))
    experts = model.language_model.model.layers[1].mlp.experts.routed_experts
    for ours, hub in (("w13_weight", "gate_up_proj"), ("w2_weight", "down_proj")):
        expected = tensors[f"{LAYER}.mlp.experts.{hub}"].transpose(1, 2)
        assert torch.equal(getattr(experts, ours).float(), expected.float())
        expected = tensors[f"{LAYER}.mlp.experts.{hub}_scale_inv"].transpose(1, 2)
        assert torch.equal(getattr(experts, f"{ours}_scale_inv"), expected.float())


def test_vllm_may_quantise_an_unquantised_checkpoint_which_is_held_against_the_hub_layout(
    checkpoint: Callable[[str, bool], QuantisedCheckpoint], build_here: Callable[..., Any]
) -> None:
    folder = checkpoint("int4", False).reference
    model = build_here(folder, quantization="fp8_per_channel")
    tensors = without(f"{LAYER}.self_attn.k_norm.weight")(load_file(folder / "model.safetensors"))
    with pytest.raises(
        ValueError, match=r"checkpoint lacks \S+layers\.1\.self_attn\.k_norm\.weight$"
    ):
        model.load_weights(iter(tensors.items()))


Change = Callable[[dict[str, Any]], None]


def configured(files: QuantisedCheckpoint, folder: Path, change: Change) -> Path:
    """A copy of the checkpoint with another config.json."""
    shutil.copytree(files.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def quantised_linears(model: Any) -> set[str]:
    return {name for name, is_quantised in linears_of(model, False).items() if is_quantised}


@pytest.mark.parametrize(
    ("kind", "key", "patterns"),
    [
        (
            "int4",
            "ignore",
            ["lm_head", "re:model.visual.*", r"re:^model\.language_model\.layers\.0"],
        ),
        (
            "gptq",
            "dynamic",
            {r"-:model\.visual\..*": {}, r"-:^model.language_model.layers.0\..*": {}},
        ),
        ("awq", "modules_to_not_convert", ["model.visual", "model.language_model.layers.0."]),
    ],
)
def test_ignore_lists_may_name_a_whole_half_or_a_layer_as_the_hub_does(
    kind: str,
    key: str,
    patterns: Any,
    checkpoint: Callable[[str, bool], QuantisedCheckpoint],
    build: Callable[[Path], Any],
    tmp_path: Path,
) -> None:
    def change(config: dict[str, Any]) -> None:
        config["quantization_config"][key] = patterns

    files = checkpoint(kind, False)
    folder = configured(files, tmp_path / "configured", change)
    expected = {name for name in files.quantised if name.startswith(LAYER)}
    assert quantised_linears(build(folder)) == expected


def test_a_dense_layer_among_moe_layers_is_ignored_by_its_parts_names(
    checkpoint: Callable[[str, bool], QuantisedCheckpoint],
    build: Callable[[Path], Any],
    tmp_path: Path,
) -> None:
    dense = [f"{LAYER}.mlp.{part}_proj" for part in ("gate", "up", "down")]

    def change(config: dict[str, Any]) -> None:
        config["text_config"]["mlp_only_layers"] = [1]
        config["quantization_config"]["ignore"] += dense

    files = checkpoint("fp8-dynamic", True)
    linears = linears_of(build(configured(files, tmp_path / "configured", change)), False)
    assert {name for name in linears if name.startswith(f"{LAYER}.mlp")} == set(dense)
    assert not any(linears[name] for name in dense)


@pytest.mark.parametrize(
    ("kind", "is_moe", "name"),
    [
        ("nvfp4", False, "compressed-tensors"),
        ("gptq", True, "auto_gptq"),
        ("fp8-dynamic", True, "compressed-tensors"),  # its linears do have one
    ],
)
def test_a_quantisation_without_a_kernel_is_named(
    kind: str,
    is_moe: bool,
    name: str,
    checkpoint: Callable[[str, bool], QuantisedCheckpoint],
    build_here: Callable[..., Any],
) -> None:
    with pytest.raises(ValueError, match=f"quantisation {name} on this cpu: "):
        build_here(checkpoint(kind, is_moe).folder)
