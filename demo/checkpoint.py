"""Small checkpoints in the published layout: the real architecture, sizes as parameters."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from transformers import (
    GenerationConfig,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from demo.chat_template import TemplateKind, chat_template
from multimodal.preprocessor_config import PreprocessorConfig

ExpertLayout = Literal["hub", "transformers5", "per_expert"]


@dataclass(frozen=True, slots=True)
class CheckpointSpec:
    """Sizes and variants of a checkpoint; the defaults make about 1 M parameters."""

    is_moe: bool = False
    is_tied: bool = False
    template: TemplateKind = "hybrid"
    expert_layout: ExpertLayout = "hub"
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    intermediate_size: int = 256
    num_experts: int = 8
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 96
    mrope_section: tuple[int, int, int] = (6, 5, 5)
    rope_theta: float = 5_000_000.0
    yarn_factor: float | None = None  # multiplies max_position_embeddings
    max_position_embeddings: int = 262_144
    vision_hidden_size: int = 64
    vision_depth: int = 4
    vision_num_heads: int = 2
    vision_intermediate_size: int = 128
    num_position_embeddings: int = 2304
    deepstack_visual_indexes: tuple[int, ...] = (0, 1, 2)
    preprocessor: PreprocessorConfig = field(default_factory=PreprocessorConfig)
    is_greedy: bool = False  # what generation_config.json recommends
    dtype: torch.dtype = torch.float32
    # Wide enough that positions, DeepStack levels and pixels all move random logits visibly.
    initializer_range: float = 0.15
    seed: int = 0


def new_model(spec: CheckpointSpec, tokenizer: Any) -> Any:
    """A transformers model of this size, its weights drawn from `spec.seed`; float32."""
    torch.manual_seed(spec.seed)
    if spec.is_moe:
        return Qwen3VLMoeForConditionalGeneration(_config(spec, tokenizer))
    return Qwen3VLForConditionalGeneration(_config(spec, tokenizer))


def save_checkpoint(path: Path, spec: CheckpointSpec, model: Any, tokenizer: Any) -> None:
    """Write every file of a published checkpoint into `path`; gives the tokenizer its template."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.chat_template = chat_template(spec.template)
    tokenizer.save_pretrained(path)
    save_file(_state_dict(model, spec), path / "model.safetensors", metadata={"format": "pt"})
    config = model.config
    config.architectures = [type(model).__name__]
    config.dtype = spec.dtype
    config.save_pretrained(path)
    _generation_config(tokenizer, spec.is_greedy).save_pretrained(path)
    _write_preprocessors(path, spec.preprocessor)


def _state_dict(model: Any, spec: CheckpointSpec) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        weights = tensor.to("cpu", spec.dtype)
        if name == "lm_head.weight" and spec.is_tied:
            continue
        if ".mlp.experts." in name:
            tensors |= _expert_tensors(name, weights, spec.expert_layout)
        else:
            tensors[name] = weights.contiguous().clone()
    return tensors


def _expert_tensors(
    name: str, tensor: torch.Tensor, layout: ExpertLayout
) -> dict[str, torch.Tensor]:
    """transformers 5 holds (E, 2I, H) and (E, H, I); the hub has (E, H, 2I) and (E, I, H)."""
    if layout == "transformers5":
        return {name: tensor.contiguous().clone()}
    if layout == "hub":
        return {name: tensor.transpose(1, 2).contiguous().clone()}
    prefix, _, kind = name.rpartition(".")
    if kind == "down_proj":
        parts = {"down_proj": tensor}
    else:
        gate, up = tensor.chunk(2, dim=1)
        parts = {"gate_proj": gate, "up_proj": up}
    return {
        f"{prefix}.{expert}.{part}.weight": weight[expert].contiguous().clone()
        for part, weight in parts.items()
        for expert in range(tensor.shape[0])
    }


def _config(spec: CheckpointSpec, tokenizer: Any) -> Any:
    vision_tokens = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    config_class = Qwen3VLMoeConfig if spec.is_moe else Qwen3VLConfig
    return config_class(
        text_config=_text_config(spec, tokenizer),
        vision_config={
            "hidden_size": spec.vision_hidden_size,
            "depth": spec.vision_depth,
            "num_heads": spec.vision_num_heads,
            "intermediate_size": spec.vision_intermediate_size,
            "out_hidden_size": spec.hidden_size,
            "num_position_embeddings": spec.num_position_embeddings,
            "deepstack_visual_indexes": list(spec.deepstack_visual_indexes),
            "initializer_range": spec.initializer_range,
        },
        tie_word_embeddings=spec.is_tied,
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in vision_tokens.items()},
    )


def _text_config(spec: CheckpointSpec, tokenizer: Any) -> dict[str, Any]:
    text: dict[str, Any] = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,  # vLLM pads vocabularies to multiples of 64
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "max_position_embeddings": int(spec.max_position_embeddings * (spec.yarn_factor or 1)),
        "rms_norm_eps": 1e-6,
        "rope_parameters": _rope_parameters(spec),
        "initializer_range": spec.initializer_range,
        "tie_word_embeddings": spec.is_tied,
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    if spec.is_moe:
        text |= {
            "num_experts": spec.num_experts,
            "num_experts_per_tok": spec.num_experts_per_tok,
            "moe_intermediate_size": spec.moe_intermediate_size,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    return text


def _rope_parameters(spec: CheckpointSpec) -> dict[str, Any]:
    rope: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": spec.rope_theta,
        "mrope_section": list(spec.mrope_section),
        "mrope_interleaved": True,
    }
    if spec.yarn_factor is not None:
        rope |= {
            "rope_type": "yarn",
            "factor": spec.yarn_factor,
            "original_max_position_embeddings": spec.max_position_embeddings,
        }
    return rope


def _generation_config(tokenizer: Any, is_greedy: bool) -> GenerationConfig:
    end_of_text = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    sampling: dict[str, Any] = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
    return GenerationConfig(
        do_sample=not is_greedy,
        eos_token_id=[tokenizer.eos_token_id, end_of_text],
        pad_token_id=end_of_text,
        **({} if is_greedy else sampling),
    )


def _write_preprocessors(path: Path, config: PreprocessorConfig) -> None:
    """The two files of the published checkpoints, same keys."""
    shared = {
        "patch_size": config.patch_size,
        "temporal_patch_size": config.temporal_patch_size,
        "merge_size": config.merge_size,
        "image_mean": list(config.image_mean),
        "image_std": list(config.image_std),
        "processor_class": "Qwen3VLProcessor",
    }
    image = shared | {
        "size": {
            "longest_edge": config.image_max_pixels,
            "shortest_edge": config.image_min_pixels,
        },
        "image_processor_type": "Qwen2VLImageProcessorFast",
    }
    video = shared | {
        "size": {
            "longest_edge": config.video_max_pixels,
            "shortest_edge": config.video_min_pixels,
        },
        "fps": config.fps,
        "min_frames": config.min_frames,
        "max_frames": config.max_frames,
        "video_processor_type": "Qwen3VLVideoProcessor",
    }
    (path / "preprocessor_config.json").write_text(json.dumps(image, indent=2) + "\n")
    (path / "video_preprocessor_config.json").write_text(json.dumps(video, indent=2) + "\n")
