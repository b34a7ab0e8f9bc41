"""Every published size, built on the meta device: our parameters against the hub layout.

The layout comes from transformers' own model of the same configuration, its fused experts turned to
the hub's orientation. Our real loading code runs over it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from model_executor.hub_layout import hub_tensors
from tests.parity.published import PUBLISHED, transformers_config

Tensors = dict[str, torch.Tensor]


def hub_layout(config: Any) -> Tensors:
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    tensors = dict(model.state_dict())
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    return {
        name: tensor.transpose(1, 2) if ".mlp.experts." in name else tensor
        for name, tensor in tensors.items()
    }


@contextmanager
def single_process_group() -> Iterator[None]:
    from vllm.distributed import (
        cleanup_dist_env_and_memory,
        init_distributed_environment,
        initialize_model_parallel,
    )
    from vllm.utils.network_utils import get_distributed_init_method, get_open_port

    init_distributed_environment(
        world_size=1,
        rank=0,
        local_rank=0,
        distributed_init_method=get_distributed_init_method("127.0.0.1", get_open_port()),
        backend="gloo",
    )
    initialize_model_parallel(1, 1)
    try:
        yield
    finally:
        cleanup_dist_env_and_memory()


@pytest.fixture
def build(
    tmp_path: Path, checkpoint: Callable[[str], str]
) -> Iterator[Callable[[Any], torch.nn.Module]]:
    """Configuration -> our model on the meta device."""
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    def build_on_meta(config: Any) -> torch.nn.Module:
        for pattern in ("*tokenizer*", "*preprocessor*"):
            for file in Path(checkpoint("dense")).glob(pattern):
                (tmp_path / file.name).symlink_to(file)
        config.save_pretrained(tmp_path)
        vllm_config = EngineArgs(
            str(tmp_path), enforce_eager=True, kv_cache_memory_bytes=2**30
        ).create_engine_config()
        with (
            set_current_vllm_config(vllm_config),
            single_process_group(),
            set_default_torch_dtype(torch.bfloat16),
            torch.device("meta"),
        ):
            return initialize_model(vllm_config=vllm_config)

    yield build_on_meta


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_stated_layout_is_transformers_own(name: str) -> None:
    config = transformers_config(name)
    expected = {name: tuple(tensor.shape) for name, tensor in hub_layout(config).items()}
    assert hub_tensors(config) == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tensor_finds_its_parameter_and_none_is_left(
    name: str, build: Callable[[Any], torch.nn.Module]
) -> None:
    config = transformers_config(name)
    model = build(config)
    loaded = model.load_weights(iter(hub_layout(config).items()))
    parameters = dict(model.named_parameters())
    assert set(loaded) == set(parameters)
    # the same number of values on both sides: stacked and fused tensors hide none
    num_hub = sum(tensor.numel() for tensor in hub_layout(config).values())
    image_kernel = parameters["visual.patch_embed.image_weight"].numel()
    assert sum(p.numel() for p in parameters.values()) - image_kernel == num_hub


def test_the_patch_embedding_may_be_spread_over_two_files(
    build: Callable[[Any], torch.nn.Module],
) -> None:
    config = transformers_config("2B")
    model = build(config)
    tensors = hub_layout(config)
    bias = "model.visual.patch_embed.proj.bias"
    last = {bias: tensors.pop(bias)}
    loaded = model.load_weights((tensors | last).items())
    assert set(loaded) == set(dict(model.named_parameters()))


def test_foreign_tensors_are_named(build: Callable[[Any], torch.nn.Module]) -> None:
    config = transformers_config("2B")
    model = build(config)
    tensors = hub_layout(config)
    with pytest.raises(ValueError, match=r"model\.language_model\.layers\.0\.extra\.weight"):
        model.load_weights([("model.language_model.layers.0.extra.weight", torch.empty(1))])
    wrong = "model.visual.merger.linear_fc2.weight"
    with pytest.raises(ValueError, match=r"merger\.linear_fc2\.weight has shape \(3, 4\)"):
        model.load_weights((tensors | {wrong: torch.empty(3, 4, device="meta")}).items())
    del tensors["model.language_model.norm.weight"]
    with pytest.raises(ValueError, match=r"lacks model\.language_model\.norm\.weight"):
        model.load_weights(tensors.items())
