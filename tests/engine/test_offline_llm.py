"""vLLM's own `LLM(...)` with our plugin: the model and the processor are ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model_executor.parity import EngineUnderTest, ParityCase
from multimodal.image import decode_image, rgb_pixels
from multimodal.items import LoadedMedia
from multimodal.keys import array_digest
from multimodal.options import MediaLimits, MediaOptions
from multimodal.preprocessor_config import load_preprocessor_config
from multimodal.visual_items import image_item, video_items
from server.prompt import PromptRenderer

MEDIA = Path(__file__).parents[1] / "media"
NUM_TOKENS = 12
SMALL = {"min_pixels": 4096, "max_pixels": 40_000}
IMAGE_PAD = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO_PAD = "<|vision_start|><|video_pad|><|vision_end|>"


@pytest.fixture(scope="module")
def engine(instruct_checkpoint: Path) -> Iterator[EngineUnderTest]:
    under_test = EngineUnderTest(str(instruct_checkpoint), max_model_len=2048)
    yield under_test
    under_test.close()


@pytest.fixture
def rocket() -> Image.Image:
    return Image.open(MEDIA / "rocket.jpg")


@pytest.fixture
def clip() -> tuple[np.ndarray, dict[str, Any]]:
    """Five frames of a file, sampled already: half a second lies between two of them."""
    files = sorted(MEDIA.glob("bunny_frame_*.jpg"))
    frames = np.stack([decode_image(file.read_bytes(), MediaLimits()) for file in files])
    indices = [12 * index for index in range(len(frames))]
    return frames, {"fps": 24.0, "frames_indices": indices, "total_num_frames": 60}


def chat(pads: str) -> str:
    return f"<|im_start|>user\n{pads}What is it?<|im_end|>\n<|im_start|>assistant\n"


def generate(engine: EngineUnderTest, pads: str, data: dict[str, Any], **kwargs: Any) -> Any:
    """vLLM's answer to raw text and raw media."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
    prompt = {"prompt": chat(pads), "multi_modal_data": data, "mm_processor_kwargs": kwargs}
    return engine.llm.generate(prompt, sampling, use_tqdm=False)[0]


class Expected:
    """The tokens of the same prompt when its input is built as our server builds it."""

    def __init__(self, engine: EngineUnderTest, checkpoint: Path) -> None:
        self._engine = engine
        self._renderer = PromptRenderer(str(checkpoint))
        self._config = load_preprocessor_config(str(checkpoint))

    def image(self, picture: Image.Image, **options: int) -> LoadedMedia:
        rgb = rgb_pixels(picture)
        arguments = (MediaOptions(**options), self._config, MediaLimits(), "offline")
        return LoadedMedia("image", (image_item(rgb, array_digest(rgb), *arguments),))

    def video(self, clip: tuple[np.ndarray, dict[str, Any]], **options: int) -> LoadedMedia:
        frames, metadata = clip
        arguments = (MediaOptions(**options), self._config, MediaLimits(), "offline")
        return video_items(
            frames,
            tuple(metadata["frames_indices"]),
            metadata["fps"],
            array_digest(frames),
            *arguments,
        )

    def run(self, media: list[LoadedMedia]) -> tuple[list[int], list[int]]:
        """Token ids of the prompt and of the greedy answer."""
        parts = [{"type": part.modality} for part in media]
        message = {"role": "user", "content": [*parts, {"type": "text", "text": "What is it?"}]}
        rendered = self._renderer.render([message], thinking=False)
        expanded = self._renderer.expand(rendered, media)
        case = ParityCase("", expanded.token_ids, expanded.items, tuple(media))
        (run,) = self._engine.run([case], NUM_TOKENS)
        return list(expanded.token_ids), list(run.generated)


@pytest.fixture(scope="module")
def expected(engine: EngineUnderTest, instruct_checkpoint: Path) -> Expected:
    return Expected(engine, instruct_checkpoint)


def tokens(output: Any) -> tuple[list[int], list[int]]:
    return list(output.prompt_token_ids), list(output.outputs[0].token_ids)


def test_model_and_processor_in_use_are_ours(engine: EngineUnderTest):
    from vllm.multimodal import MULTIMODAL_REGISTRY

    assert type(engine.model).__module__.startswith("model_executor.")
    model_config = engine.llm.llm_engine.vllm_config.model_config
    processor = MULTIMODAL_REGISTRY.create_processor(model_config)
    assert type(processor).__module__ == "multimodal.vllm_processor"


def test_text_gets_the_answer_that_the_server_gives(engine, expected):
    assert tokens(generate(engine, "", {})) == expected.run([])


def test_image_gets_the_answer_that_the_server_gives(engine, expected, rocket):
    output = generate(engine, IMAGE_PAD, {"image": rocket})
    assert tokens(output) == expected.run([expected.image(rocket)])


def test_video_gets_the_answer_that_the_server_gives(engine, expected, clip):
    output = generate(engine, VIDEO_PAD, {"video": [clip]})
    assert tokens(output) == expected.run([expected.video(clip)])


def test_images_and_a_video_in_one_prompt_keep_their_places(engine, expected, rocket, clip):
    turned = rocket.rotate(90, expand=True)
    data = {"image": [rocket, turned], "video": [clip]}
    output = generate(engine, IMAGE_PAD + VIDEO_PAD + IMAGE_PAD, data, **SMALL)
    first, second = (expected.image(picture, **SMALL) for picture in (rocket, turned))
    assert tokens(output) == expected.run([first, expected.video(clip, **SMALL), second])


def test_pixel_bounds_are_followed(engine, expected, rocket):
    output = generate(engine, IMAGE_PAD, {"image": rocket}, **SMALL)
    assert tokens(output) == expected.run([expected.image(rocket, **SMALL)])
    assert len(output.prompt_token_ids) < len(
        generate(engine, IMAGE_PAD, {"image": rocket}).prompt_token_ids
    )


def test_unknown_processor_option_is_refused_by_name(engine, rocket):
    with pytest.raises(ValueError, match="max_pixel"):
        generate(engine, IMAGE_PAD, {"image": rocket}, max_pixel=4096)


def test_more_images_than_placeholders_are_refused(engine, rocket):
    with pytest.raises(ValueError, match="more media parts than placeholders"):
        generate(engine, IMAGE_PAD, {"image": [rocket, rocket]})


def test_more_placeholders_than_images_are_refused(engine, rocket):
    with pytest.raises(ValueError, match="more placeholders in the prompt than media parts"):
        generate(engine, IMAGE_PAD * 2, {"image": rocket})
