"""The steps of an image request before the engine, and bare libraries doing no more than they must.

Both sides of a step get the same input and run alone, so copies that one step makes for the next
are in the step that makes them.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import numpy as np
import orjson
import pybase64
import simplejpeg
import torch
import zmq
from blake3 import blake3
from tokenizers import Tokenizer
from torch.nn import functional as F
from vllm.multimodal.inputs import MultiModalKwargsItem
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from benchmarks.client import chat_body, user
from benchmarks.pictures import image_part
from demo.embedded import EMBEDDED_CHECKPOINT
from multimodal.image import decode_image, probe_image
from multimodal.items import ImageRef, LoadedMedia, PlacedItem
from multimodal.keys import bytes_digest
from multimodal.layout import ExpandedPrompt
from multimodal.options import MediaLimits, MediaOptions
from multimodal.preprocessor_config import PreprocessorConfig
from multimodal.probe import plan_media, probe_media
from multimodal.visual_items import item_patches
from multimodal.vllm_input import engine_input
from server.body import parse_body
from server.body_data_url import set_aside_data_urls
from server.conversation import build_conversation
from server.media_fetch import decode_data_url
from server.prompt import PromptRenderer
from server.protocol import ChatCompletionRequest

QUESTION = "How many shapes are there?"
_MODEL = str(EMBEDDED_CHECKPOINT)
_REPEATS = 30
_LEAST_S = 0.005  # CPU time of one repetition, long enough for the clock
_LIMITS = MediaLimits()

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    ours: Work
    floor: Work


def measure_ms(work: Work) -> float:
    """Median CPU time of all threads of this process."""
    num_calls = 1
    while (elapsed_s := _cpu_s(work, num_calls)) < _LEAST_S:
        num_calls *= 2
    times_s = [elapsed_s, *(_cpu_s(work, num_calls) for _ in range(_REPEATS))]
    return median(times_s) / num_calls * 1000


def make_steps(data: bytes, config: PreprocessorConfig) -> list[Step]:
    """Args: data: a JPEG; config: says how large it becomes."""
    torch.set_num_threads(1)  # as in the threads of the media path
    probed = probe_media(ImageRef(data, MediaOptions(), "image"), _LIMITS, lambda: None)
    plan = partial(plan_media, probed, None, config, _LIMITS, "benchmark")
    rgb = decode_image(data, _LIMITS)
    outline = plan().outline
    patches = item_patches([rgb], outline.items[0], config)
    media = replace(outline, items=(replace(outline.items[0], patches=patches),))
    body = chat_body([user(image_part(data, "JPEG"), QUESTION)])
    return [
        *_body_steps(body),
        Step("digest", lambda: bytes_digest(data), lambda: blake3(data).digest()),
        Step(
            "header, size, key",
            lambda: (probe_image(data), plan()),
            lambda: simplejpeg.decode_jpeg_header(data),
        ),
        Step("decode", lambda: decode_image(data, _LIMITS), lambda: _decode(data)),
        Step(
            "resize, patches",
            lambda: item_patches([rgb], outline.items[0], config),
            lambda: _resize(rgb, outline.items[0].grid_h * 16, outline.items[0].grid_w * 16),
        ),
        _prompt_step(body, media),
        _hand_over_step(patches, media),
    ]


def _body_steps(body: bytes) -> Iterator[Step]:
    skeleton, urls = set_aside_data_urls(body)
    (url,) = urls.values()
    read = partial(decode_data_url, url, max_bytes=len(body), max_frames=1, param="image")
    yield Step(
        "the body's JSON",
        lambda: parse_body(body, ChatCompletionRequest),
        lambda: orjson.loads(skeleton),
    )
    yield Step("base64", read, lambda: pybase64.b64decode(url.payload, validate=True))


def _decode(data: bytes) -> np.ndarray:
    rgb: np.ndarray = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
    return rgb


def _resize(rgb: np.ndarray, height: int, width: int) -> torch.Tensor:
    """And one copy, as patches lie in another order than pixels."""
    pixels = torch.from_numpy(rgb).unsqueeze(0).permute(0, 3, 1, 2)
    if rgb.shape[:2] != (height, width):
        pixels = F.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True)
    return pixels.clone()


def _prompt_step(body: bytes, media: LoadedMedia) -> Step:
    renderer = PromptRenderer(_MODEL)
    tokenizer = Tokenizer.from_file(str(EMBEDDED_CHECKPOINT / "tokenizer.json"))
    request = parse_body(body, ChatCompletionRequest).request

    def render() -> ExpandedPrompt:
        messages = build_conversation(request).messages
        return renderer.expand(renderer.render(messages, thinking=False), [media])

    text = renderer.decode_prompt(render().token_ids)
    placeholder = "<|image_pad|>"
    once = text.replace(placeholder * text.count(placeholder), placeholder)
    return Step("template, tokens", render, lambda: tokenizer.encode(once).ids)


def _hand_over_step(patches: torch.Tensor, media: LoadedMedia) -> Step:
    """From an item to the same item in the engine's process, by way of a socket."""
    encoder, decoder = MsgpackEncoder(), MsgpackDecoder(MultiModalKwargsItem)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    sender, receiver = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    receiver.bind("ipc://*")  # a free address
    sender.connect(receiver.getsockopt_string(zmq.LAST_ENDPOINT))
    placed = PlacedItem(media.items[0], offset=0, num_tokens=patches.shape[0] // 4)

    def hand_over() -> object:
        (item,) = engine_input((), [placed])["mm_kwargs"]["image"]
        sender.send_multipart(encoder.encode(item), copy=False)
        return decoder.decode(receiver.recv_multipart(copy=False))

    return Step("hand-over", hand_over, lambda: (patches.clone(), patches.clone()))


def _cpu_s(work: Work, num_calls: int) -> float:
    start_s = time.process_time()
    for _ in range(num_calls):
        work()
    return time.process_time() - start_s
