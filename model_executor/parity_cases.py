"""The prompts on which a checkpoint is compared: made in code from a seed, no files needed."""

import re

import numpy as np
from transformers import AutoConfig, AutoTokenizer

from model_executor.parity import ParityCase
from multimodal.items import LoadedMedia
from multimodal.keys import array_digest
from multimodal.layout import VisionTokens, expand_prompt
from multimodal.options import MediaLimits, MediaOptions
from multimodal.preprocessor_config import load_preprocessor_config
from multimodal.visual_items import image_item, video_items

_IMAGE, _VIDEO = "<image>", "<video>"
_ODD_SIZES = ((97, 131), (64, 64), (210, 33), (31, 180), (128, 75))  # (height, width) in pixels
_CLIP = (5, 90, 122)  # frames, height, width; an odd count: the last frame is repeated


class CaseBuilder:
    """Builds cases in one checkpoint's vocabulary.

    `build` takes user text in which `<image>` and `<video>` stand for media drawn from the seed.
    """

    def __init__(
        self, model: str, *, seed: int = 0, min_pixels: int = 4096, max_pixels: int = 160 * 160
    ) -> None:
        self._options = MediaOptions(min_pixels=min_pixels, max_pixels=max_pixels)
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._tokens = VisionTokens.from_config(AutoConfig.from_pretrained(model).to_dict())
        self._preprocessor = load_preprocessor_config(model)
        self._random = np.random.default_rng(seed)
        self._num_images = 0

    def standard_cases(self) -> list[ParityCase]:
        return [
            self.build("text", "What is a circle?"),
            self.build("one image", f"{_IMAGE}What is in the picture?"),
            self.build(
                "five images", "".join(f"Picture: {_IMAGE}" for _ in _ODD_SIZES) + "Compare."
            ),
            self.build("one video", f"{_VIDEO}What happens?"),
            self.build("interleaved", f"See {_IMAGE} then {_VIDEO} and {_IMAGE} in order."),
        ]

    def build(self, name: str, text: str) -> ParityCase:
        parts = re.split(f"({_IMAGE}|{_VIDEO})", text)
        media = [self._draw(part) for part in parts if part in (_IMAGE, _VIDEO)]
        content = [
            {"type": part.strip("<>")}
            if part in (_IMAGE, _VIDEO)
            else {"type": "text", "text": part}
            for part in parts
            if part
        ]
        rendered = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        expanded = expand_prompt(
            self._tokenizer.encode(rendered, add_special_tokens=False),
            media,
            self._tokens,
            lambda text: self._tokenizer.encode(text, add_special_tokens=False),
            self._preprocessor.merge_size,
        )
        return ParityCase(name, expanded.token_ids, expanded.items, tuple(media))

    def _draw(self, placeholder: str) -> LoadedMedia:
        if placeholder == _IMAGE:
            return self._draw_image()
        frames = self._pixels(_CLIP)
        indices = tuple(range(0, 12 * len(frames), 12))
        return video_items(
            frames,
            indices,
            24.0,
            array_digest(frames),
            self._options,
            self._preprocessor,
            MediaLimits(),
            "parity",
        )

    def _draw_image(self) -> LoadedMedia:
        size = _ODD_SIZES[self._num_images % len(_ODD_SIZES)]
        self._num_images += 1
        rgb = self._pixels(size)
        item = image_item(
            rgb, array_digest(rgb), self._options, self._preprocessor, MediaLimits(), "parity"
        )
        return LoadedMedia("image", (item,))

    def _pixels(self, shape: tuple[int, ...]) -> np.ndarray:
        return self._random.integers(0, 256, (*shape, 3), dtype=np.uint8)
