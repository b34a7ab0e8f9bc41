"""A drafter for EAGLE3 whose every draft is known: it repeats the last token.

Its layer adds nothing, so it predicts from the third of the auxiliary hidden states that it is
given: the output of the target's last layer, from which the target drew its last token. So the
first draft is that token again if, and only if, the hidden states that arrive are the right ones.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def build_echo_drafter(path: Path, target: Path) -> Path:
    """Write a checkpoint for `speculative_config["model"]` into `path`."""
    text = json.loads((target / "config.json").read_text())["text_config"]
    weights = load_file(target / "model.safetensors")
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(_config(text)))
    save_file(_weights(text, weights), path / "model.safetensors", metadata={"format": "pt"})
    return path


def _config(text: dict[str, Any]) -> dict[str, Any]:
    same = (
        *("hidden_size", "intermediate_size", "vocab_size", "rms_norm_eps", "head_dim"),
        *("num_attention_heads", "num_key_value_heads", "max_position_embeddings"),
    )
    return {name: text[name] for name in same} | {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "num_hidden_layers": 1,
        "draft_vocab_size": text["vocab_size"],
        "tie_word_embeddings": False,
        "dtype": "float32",
        # inputs of these layers; the last is the output of the last layer
        "eagle_aux_hidden_state_layer_ids": [1, 2, text["num_hidden_layers"]],
    }


def _weights(text: dict[str, Any], target: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    query = text["num_attention_heads"] * text["head_dim"]
    key = text["num_key_value_heads"] * text["head_dim"]
    shapes = {
        "self_attn.q_proj": (query, 2 * hidden),
        "self_attn.k_proj": (key, 2 * hidden),
        "self_attn.v_proj": (key, 2 * hidden),
        "self_attn.o_proj": (hidden, query),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    norms = ("input_layernorm", "post_attention_layernorm", "hidden_norm")
    third = torch.cat([torch.zeros(hidden, 2 * hidden), torch.eye(hidden)], dim=1)
    head = target.get("lm_head.weight", target["model.language_model.embed_tokens.weight"])
    return {
        **{f"midlayer.{name}.weight": torch.zeros(shape) for name, shape in shapes.items()},
        **{f"midlayer.{name}.weight": torch.ones(hidden) for name in norms},
        "fc.weight": third,
        "norm.weight": target["model.language_model.norm.weight"].clone(),
        "lm_head.weight": head.clone(),
    }
