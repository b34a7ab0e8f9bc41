"""Our media path behind vLLM's processor interface, for `LLM(...)` and vLLM's own server.

`apply()` is replaced as a whole: it calls the same functions as our server does. Media arrive
decoded here (vLLM's loaders have done that), prompts as token ids with one placeholder per media
part.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.parse import (
    EmbeddingItems,
    MultiModalDataItems,
    MultiModalDataParser,
)
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
)
from vllm.platforms import current_platform

from multimodal.errors import MediaError
from multimodal.image import rgb_pixels
from multimodal.items import LoadedMedia
from multimodal.keys import array_digest
from multimodal.layout import VisionTokens, expand_prompt
from multimodal.options import MediaLimits, MediaOptions
from multimodal.plan import VideoHeader, plan_video
from multimodal.preprocessor_config import PreprocessorConfig, load_preprocessor_config
from multimodal.visual_items import image_item, video_items
from multimodal.vllm_input import engine_input

_CPU_DUMMY_SIDE = 256  # pixels; profiling with the largest image takes minutes on a CPU
_DUMMY_FRAMES = 2
_OPTION_NAMES = frozenset(MediaOptions.__dataclass_fields__)
_IGNORED_KWARGS = frozenset({"do_sample_frames"})  # decided by the loader's metadata


class Qwen3VLProcessingInfo(BaseProcessingInfo):
    """What vLLM asks about the model before any request comes."""

    @cached_property
    def preprocessor(self) -> PreprocessorConfig:
        model = self.ctx.model_config
        return load_preprocessor_config(model.model, model.revision)

    @cached_property
    def limits(self) -> MediaLimits:
        return MediaLimits()

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"image": None, "video": None}

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        """The true maxima: a larger item could never be scheduled."""
        return dict.fromkeys(("image", "video"), self.preprocessor.max_item_tokens)

    def get_data_parser(self) -> MultiModalDataParser:
        return MultiModalDataParser(video_needs_metadata=True)

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        names = set(_OPTION_NAMES | _IGNORED_KWARGS)
        return {"text_kwargs": set(), "images_kwargs": names, "videos_kwargs": names}


class Qwen3VLDummyInputsBuilder(BaseDummyInputsBuilder[Qwen3VLProcessingInfo]):
    """Inputs for warm-up and profiling; `limit_mm_per_prompt` may state other sizes."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return "".join(
            f"<|vision_start|><|{modality}_pad|><|vision_end|>" * mm_counts.get(modality, 0)
            for modality in ("image", "video")
        )

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]
    ) -> dict[str, Any]:
        side = self._default_side()
        image_shape = (*_dummy_size(mm_options.get("image"), side), 3)
        video_shape = (_DUMMY_FRAMES, *_dummy_size(mm_options.get("video"), side), 3)
        metadata = {"fps": 2.0, "frames_indices": list(range(_DUMMY_FRAMES))}
        image = Image.fromarray(np.zeros(image_shape, dtype=np.uint8))
        video = (np.zeros(video_shape, dtype=np.uint8), metadata)
        return {
            "image": [image] * mm_counts.get("image", 0),
            "video": [video] * mm_counts.get("video", 0),
        }

    def _default_side(self) -> int:
        """Pixels. A GPU's memory is shared out after this run, so there it is the largest item."""
        if current_platform.is_cpu():
            return _CPU_DUMMY_SIDE
        config = self.info.preprocessor
        return math.isqrt(config.max_item_tokens) * config.factor


class Qwen3VLMultiModalProcessor(BaseMultiModalProcessor[Qwen3VLProcessingInfo]):
    """Token ids and decoded media -> `MultiModalInput`, one item per image and temporal patch."""

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Raises: ValueError for embeddings instead of media, unknown options, or a prompt whose
        placeholders do not match the media; VLLMValidationError for media out of bounds.
        """
        options = media_options({**self._server_kwargs(), **inputs.hf_processor_mm_kwargs})
        with timing_ctx.record("apply_hf_processor"):
            try:
                media = self._load(inputs.mm_data_items, options)
            except MediaError as error:  # vLLM's servers answer 500 for what they do not know
                raise VLLMValidationError(error.message) from error
        with timing_ctx.record("apply_prompt_updates"):
            expanded = expand_prompt(
                inputs.prompt,
                media,
                self._vision_tokens,
                self._encode_text,
                self.info.preprocessor.merge_size,
            )
        return engine_input(expanded.token_ids, expanded.items)

    def _server_kwargs(self) -> Mapping[str, Any]:
        return self.info.ctx.model_config.get_multimodal_config().mm_processor_kwargs or {}

    @cached_property
    def _vision_tokens(self) -> VisionTokens:
        return VisionTokens.from_config(self.info.get_hf_config().to_dict())

    @cached_property
    def _namespace(self) -> str:
        model = self.info.ctx.model_config
        return f"{model.model}@{model.revision}:{model.dtype}"

    def _encode_text(self, text: str) -> Sequence[int]:
        tokens: Sequence[int] = self.info.get_tokenizer().encode(text, add_special_tokens=False)
        return tokens

    def _load(self, items: MultiModalDataItems, options: MediaOptions) -> list[LoadedMedia]:
        media: list[LoadedMedia] = []
        for modality, data in items.items():
            if isinstance(data, EmbeddingItems):
                raise ValueError(f"precomputed {modality} embeddings are not accepted")
            load = self._load_image if modality == "image" else self._load_video
            media += [load(data.get(index), options) for index in range(len(data))]
        return media

    def _load_image(self, image: Any, options: MediaOptions) -> LoadedMedia:
        rgb = _rgb(image)
        info = self.info
        item = image_item(
            rgb, array_digest(rgb), options, info.preprocessor, info.limits, self._namespace
        )
        return LoadedMedia("image", (item,))

    def _load_video(
        self, video: tuple[Any, Mapping[str, Any]], options: MediaOptions
    ) -> LoadedMedia:
        frames, metadata = video
        rgb = np.stack([_rgb(frame) for frame in frames])
        config, limits = self.info.preprocessor, self.info.limits
        source_fps = float(metadata.get("fps") or 0)
        indices = metadata.get("frames_indices")
        if indices is None or metadata.get("do_sample_frames"):
            header = VideoHeader(len(rgb), source_fps, width=rgb.shape[2], height=rgb.shape[1])
            plan = plan_video(header, options, config, limits)
            rgb, indices = rgb[list(plan.indices)], plan.indices
        return video_items(
            rgb,
            tuple(indices),
            source_fps or config.fps,
            array_digest(rgb),
            options,
            config,
            limits,
            self._namespace,
        )

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Any) -> Any:
        raise NotImplementedError("apply() builds the fields itself")

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out: Any) -> Any:
        raise NotImplementedError("apply() expands the prompt itself")


def media_options(kwargs: Mapping[str, Any]) -> MediaOptions:
    """`mm_processor_kwargs` -> options.

    Raises: ValueError naming an unknown option.
    """
    unknown = set(kwargs) - _OPTION_NAMES - _IGNORED_KWARGS
    if unknown:
        raise ValueError(f"unknown mm_processor_kwargs: {', '.join(sorted(unknown))}")
    return MediaOptions(**{name: kwargs[name] for name in _OPTION_NAMES & set(kwargs)})


def _dummy_size(options: Any, default_side: int) -> tuple[int, int]:
    """(height, width) in pixels."""
    height, width = getattr(options, "height", None), getattr(options, "width", None)
    return height or default_side, width or default_side


def _rgb(image: Any) -> np.ndarray:
    """A PIL image, or an array or tensor in (H, W, 3) or (3, H, W) uint8 -> (H, W, 3) uint8."""
    if isinstance(image, Image.Image):
        return rgb_pixels(image)
    array = image.cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if array.ndim == 3 and array.shape[-1] != 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8:
        raise ValueError(f"images and frames must be RGB uint8, got {array.dtype} {array.shape}")
    return np.ascontiguousarray(array)
