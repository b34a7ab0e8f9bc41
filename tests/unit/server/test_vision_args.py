"""Settings of the vision tower in vLLM's words."""

from typing import Any

import pytest
from vllm.platforms import current_platform

from multimodal.vision_cache import VisionCacheConfig
from server.context_length import ContextLength
from server.settings import EngineSettings
from server.vllm_args import engine_args

CACHE = VisionCacheConfig(namespace="0a" * 32, handover_dir="patches")


def make_args(**settings: Any) -> Any:
    engine = EngineSettings(profile="cpu", **settings)
    return engine_args("demo", engine, ContextLength(4096), CACHE, None, None)


def test_by_default_vllm_chooses() -> None:
    args = make_args()
    assert args.mm_encoder_tp_mode == "weights"
    assert args.mm_encoder_attn_backend is None
    assert not args.compilation_config.cudagraph_mm_encoder


def test_the_settings_of_the_vision_tower_are_handed_on() -> None:
    args = make_args(mm_encoder_tp_mode="data", cudagraph_mm_encoder=True)
    assert args.mm_encoder_tp_mode == "data"
    assert args.compilation_config.cudagraph_mm_encoder


def test_a_language_process_takes_embeddings_and_nothing_else() -> None:
    args = make_args(role="language", encoder_url="http://encoder:1")
    assert args.limit_mm_per_prompt == {"image": 0, "video": 0}
    assert args.enable_mm_embeds
    assert args.ec_transfer_config.ec_role == "ec_consumer"


def test_an_encoder_process_only_encodes() -> None:
    args = make_args(role="encoder")
    assert args.ec_transfer_config.is_encode_only
    assert not args.limit_mm_per_prompt


@pytest.mark.parametrize("name", ["TORCH_SDPA", "torch_sdpa"])
def test_an_attention_back_end_has_vllm_s_name_in_any_case(name: str) -> None:
    assert make_args(mm_encoder_attn_backend=name).mm_encoder_attn_backend == "TORCH_SDPA"


@pytest.mark.parametrize("name", ["FLASH", "XFORMERS", "FLASHMLA", "torch-sdpa"])
def test_a_back_end_that_is_not_to_be_had_is_refused_with_those_that_are(name: str) -> None:
    known = [backend.name for backend in current_platform.get_supported_vit_attn_backends()]
    with pytest.raises(ValueError, match="mm_encoder_attn_backend") as caught:
        make_args(mm_encoder_attn_backend=name)
    assert repr(name) in str(caught.value)
    assert ", ".join(known) in str(caught.value)
