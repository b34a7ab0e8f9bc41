"""The steps of an image request in the engine, and the bare matrix products in them."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import Any

import httpx
import torch
from prometheus_client.parser import text_string_to_metric_families
from torch.nn import functional as F

from benchmarks.client import MODEL_NAME, chat_body, user
from benchmarks.pictures import image_part
from benchmarks.server_floors import QUESTION
from benchmarks.servers import EngineNumbers, our_launch, running
from benchmarks.shapes import PATCHES_PER_TOKEN
from demo.embedded import EMBEDDED_CHECKPOINT

_WARM_UPS, _REQUESTS = 10, 40  # the vision tower's speed is told from the eighth on
_MAX_TOKENS = 33
_NO_TIERS = {"QWEN3VL_CACHE__HOST_BYTES": "0"}
_PATCH_VALUES = 3 * 16 * 16  # channels * patch**2: the frames of an image are folded into one
_ELEMENT_BYTES = 2  # bfloat16
_REPEATS = 300
_REPORT_S = 0.05
_PARTS = ("sum", "count")  # of a histogram
_LAST = "vllm:inter_token_latency_seconds_count"  # of what is counted with the last token

Shape = tuple[int, int]  # of a weight: inputs, outputs


@dataclass(frozen=True, slots=True)
class EngineTimes:
    """Milliseconds of one request alone; `token_ms` of each token after the first."""

    vision_ms: float
    prefill_ms: float
    token_ms: float


@dataclass(frozen=True, slots=True)
class Measured(EngineTimes):
    """`first_token_ms`: from the arrival of the request at the server."""

    first_token_ms: float
    num_image_tokens: int
    num_prompt_tokens: int


def measure_engine(make_image: Callable[[int], bytes]) -> Measured:
    """The fastest of many requests with an image each, one after the other, step by step."""
    launch = our_launch(EMBEDDED_CHECKPOINT, EngineNumbers(), _NO_TIERS)
    with running(launch) as server, httpx.Client(base_url=server.base_url, timeout=60) as http:
        for seed in range(_WARM_UPS):
            _ask(http, make_image(seed))
        seeds = range(_WARM_UPS, _WARM_UPS + _REQUESTS)
        measured = [_measure_request(http, make_image(seed)) for seed in seeds]
    best = Measured(*map(min, zip(*map(astuple, measured), strict=True)))
    return replace(best, prefill_ms=best.prefill_ms - best.vision_ms)


def _measure_request(http: httpx.Client, image: bytes) -> Measured:
    """Here prefill is with the vision tower, whose speed is that of about ten requests."""
    before = _read_metrics(http)
    usage = _ask(http, image)
    after = _read_metrics(http)
    while after[_LAST] == before[_LAST]:  # the engine's statistics come beside the answer
        time.sleep(_REPORT_S)
        after = _read_metrics(http)

    def mean_ms(name: str) -> float:
        total, count = (after[f"{name}_{part}"] - before[f"{name}_{part}"] for part in _PARTS)
        return total / count * 1000

    num_image_tokens = usage["prompt_tokens_details"]["image_tokens"]
    rate = after["qwen3vl_vision_cache_encode_bytes_per_second"]
    return Measured(
        num_image_tokens * _embedding_bytes() / rate * 1000,
        mean_ms("vllm:request_prefill_time_seconds"),
        mean_ms("vllm:inter_token_latency_seconds"),
        mean_ms("qwen3vl_time_to_first_token_seconds"),
        num_image_tokens,
        usage["prompt_tokens"],
    )


def measure_floors(num_image_tokens: int, num_prompt_tokens: int) -> EngineTimes:
    """Of the linear layers alone, and of attention in the vision tower, on all cores."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    vision, text = _config()["vision_config"], _config()["text_config"]
    num_patches = num_image_tokens * PATCHES_PER_TOKEN
    merged = list(_merger_shapes(vision))
    layers, head = list(_layer_shapes(text)), [(text["hidden_size"], text["vocab_size"])]
    head_ms = _linear_ms(head, 1)
    return EngineTimes(
        _linear_ms(list(_block_shapes(vision)), num_patches)
        + _attention_ms(vision, num_patches)
        + _linear_ms(merged, num_image_tokens),
        _linear_ms(layers, num_prompt_tokens) + head_ms,
        _linear_ms(layers, 1) + head_ms,
    )


def _ask(http: httpx.Client, image: bytes) -> Any:
    """The usage."""
    messages = [user(image_part(image, "JPEG"), QUESTION)]
    headers = {"content-type": "application/json"}
    body = chat_body(messages, model=MODEL_NAME, max_tokens=_MAX_TOKENS)
    answer = http.post("/v1/chat/completions", content=body, headers=headers)
    return answer.raise_for_status().json()["usage"]


def _read_metrics(http: httpx.Client) -> dict[str, float]:
    """By name, without labels: there is one engine."""
    text = http.get("/metrics").text
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples}


def _config() -> dict[str, Any]:
    config: dict[str, Any] = json.loads((EMBEDDED_CHECKPOINT / "config.json").read_text())
    return config


def _embedding_bytes() -> int:
    """Of one visual token, with its DeepStack levels."""
    vision = _config()["vision_config"]
    num_levels = 1 + len(vision["deepstack_visual_indexes"])
    return int(vision["out_hidden_size"]) * num_levels * _ELEMENT_BYTES


def _block_shapes(vision: dict[str, Any]) -> Iterator[Shape]:
    hidden, intermediate = vision["hidden_size"], vision["intermediate_size"]
    yield _PATCH_VALUES, hidden
    for _ in range(vision["depth"]):
        yield from ((hidden, 3 * hidden), (hidden, hidden))
        yield from ((hidden, intermediate), (intermediate, hidden))


def _merger_shapes(vision: dict[str, Any]) -> Iterator[Shape]:
    merged = vision["hidden_size"] * PATCHES_PER_TOKEN
    for _ in range(1 + len(vision["deepstack_visual_indexes"])):
        yield from ((merged, merged), (merged, vision["out_hidden_size"]))


def _layer_shapes(text: dict[str, Any]) -> Iterator[Shape]:
    hidden, intermediate = text["hidden_size"], text["intermediate_size"]
    query = text["num_attention_heads"] * text["head_dim"]
    key = text["num_key_value_heads"] * text["head_dim"]
    for _ in range(text["num_hidden_layers"]):
        yield from ((hidden, query + 2 * key), (query, hidden))
        yield from ((hidden, 2 * intermediate), (intermediate, hidden))


def _linear_ms(shapes: Sequence[Shape], num_rows: int) -> float:
    work = [
        (_random(num_rows, num_inputs), _random(num_outputs, num_inputs))
        for num_inputs, num_outputs in shapes
    ]
    return _wall_ms(lambda: [F.linear(rows, weight) for rows, weight in work])


def _attention_ms(vision: dict[str, Any], num_patches: int) -> float:
    heads = vision["num_heads"]
    query = _random(1, heads, num_patches, vision["hidden_size"] // heads)
    attend = partial(F.scaled_dot_product_attention, query, query, query)
    return int(vision["depth"]) * _wall_ms(attend)


def _random(*size: int) -> torch.Tensor:
    return torch.randn(size).to(torch.bfloat16)


@torch.inference_mode()
def _wall_ms(work: Callable[[], object]) -> float:
    """The fastest of many times: threads wait for whatever else uses the cores."""
    times_s = []
    for _ in range(_REPEATS):
        start_s = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - start_s)
    return min(times_s) * 1000
