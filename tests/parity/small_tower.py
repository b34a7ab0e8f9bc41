"""A small vision tower with random weights, outside of an engine, in one process or several."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig

from model_executor.qwen3_vl.vision import Grid, LayerOptions, VisionTransformer
from multimodal.preprocessor_config import PreprocessorConfig

IMAGE_WIDTH, VIDEO_WIDTH = 768, 1536  # bytes of a patch
_CONFIG = Qwen3VLVisionConfig(
    depth=4,
    hidden_size=64,
    intermediate_size=128,
    num_heads=2,
    out_hidden_size=96,
    num_position_embeddings=16 * 16,
    deepstack_visual_indexes=[0, 2],
)


def join_group(path: Path, rank: int, num_ranks: int) -> None:
    """Make this process one of `num_ranks` that share layers; they meet at the file `path`."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel

    os.environ["VLLM_DIST_IDENT"] = f"small-tower-{path.parent.name}"  # of its shared memory
    with set_current_vllm_config(VllmConfig()):
        init_distributed_environment(num_ranks, rank, f"file://{path}", rank, "gloo")
        initialize_model_parallel(num_ranks)


def leave_group() -> None:
    from vllm.distributed import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()


def make_tower(*, is_replicated: bool) -> VisionTransformer:
    """In a group; all have the same weights."""
    from vllm.config import VllmConfig, set_current_vllm_config

    config = PreprocessorConfig()
    with set_current_vllm_config(VllmConfig()):
        tower = VisionTransformer(
            _CONFIG, config.image_mean, config.image_std, LayerOptions(None, is_replicated)
        )
    random = torch.Generator().manual_seed(0)
    for name, parameter in tower.named_parameters():
        noise = torch.randn(parameter.shape, generator=random) * 0.15
        is_scale = "norm" in name and name.endswith("weight")
        parameter.data = noise + 1 if is_scale else noise
    # as if of pixels between -1 and 1: they are uint8 here
    for weight in (tower.patch_embed.image_weight, tower.patch_embed.video_weight):
        weight.data /= 128
    for module in tower.modules():
        if hasattr(module, "quant_method"):
            module.quant_method.process_weights_after_loading(module)
    return tower


def random_patches(grids: Sequence[Grid], width: int, seed: int = 0) -> torch.Tensor:
    """Args: width: bytes of a patch, IMAGE_WIDTH or VIDEO_WIDTH."""
    num_patches = sum(h * w for h, w in grids)
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_patches, width), dtype=torch.uint8, generator=random)
