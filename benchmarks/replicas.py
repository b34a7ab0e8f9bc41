"""Two replicas behind a router: where the pictures of conversations are found, by how it routes.

    python -m benchmarks.replicas

Conversations that get a picture each turn, and resend everything before it, come in an order drawn
by chance, one request at a time. Each replica has a host tier of its own, as on a machine of its
own; the disk tier is one for both, or not. Needs `make .venv-scaling/.installed`.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from benchmarks.arguments import add_checkpoints
from benchmarks.cache import CacheFolders, temporary_cache
from benchmarks.client import assistant, chat_body, user
from benchmarks.pictures import encode, image_part, photo
from benchmarks.report import machine
from benchmarks.servers import (
    EngineNumbers,
    Launch,
    end_on_sigterm,
    free_port,
    our_launch,
    running,
)
from benchmarks.shapes import SHAPE_NAMES, checkpoint

_ROUTER_FOLDER = Path(__file__).parents[1] / ".venv-scaling"
_NUM_REPLICAS = 2
_NUM_CONVERSATIONS = 8
_NUM_TURNS = 6
_WIDTH, _HEIGHT = 640, 480
_SOURCES = ("prefix", "device", "host", "disk", "encoded")
_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Setup:
    """`policy`: of the router. `shares_disk`: whether the replicas have one disk tier."""

    policy: str
    shares_disk: bool


_SETUPS = (
    Setup("round_robin", shares_disk=False),
    Setup("round_robin", shares_disk=True),
    Setup("cache_aware", shares_disk=True),
    Setup("consistent_hash", shares_disk=True),
)


@dataclass(frozen=True, slots=True)
class Request:
    conversation: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """`sources`: of its pictures. `seconds`: until the answer of one token was there."""

    sources: Sequence[str]
    num_prompt_tokens: int
    num_cached_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """Shares are of all pictures of all requests, those of earlier turns included."""

    policy: str
    shares_disk: bool
    num_pictures: int
    source_shares: Mapping[str, float]
    cached_token_share: float
    median_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_checkpoints(parser)
    parser.add_argument("--shape", choices=SHAPE_NAMES, default="vit-bound")
    arguments = parser.parse_args()
    if not _ROUTER_FOLDER.is_dir():
        parser.error("no router: make .venv-scaling/.installed")
    end_on_sigterm()
    model = checkpoint(arguments.checkpoints, arguments.shape)
    requests = draw_requests(random.Random(0))
    rows = []
    for setup in _SETUPS:
        with running_router(setup, model) as url:
            rows.append(make_row(setup, [ask(url, request) for request in requests]))
    print(table(rows))
    document = {"benchmark": "replicas", "machine": machine(), "rows": [asdict(r) for r in rows]}
    print(json.dumps(document))


def draw_requests(rng: random.Random) -> list[Request]:
    """Every turn of every conversation, the turns of each in their order."""
    histories: list[list[Any]] = [[] for _ in range(_NUM_CONVERSATIONS)]
    order = list(range(_NUM_CONVERSATIONS)) * _NUM_TURNS
    rng.shuffle(order)
    requests = []
    for seed, conversation in enumerate(order):
        messages = histories[conversation]
        picture = image_part(encode(photo(seed, _WIDTH, _HEIGHT), "JPEG"), "JPEG")
        messages.append(user(picture, f"Conversation {conversation}: what is this?"))
        requests.append(Request(conversation, chat_body(messages)))
        messages.append(assistant("Some colours."))
    return requests


@contextmanager
def running_router(setup: Setup, model: Path) -> Iterator[str]:
    """Replicas with empty caches and a router before them. Yields: the router's URL."""
    numbers = EngineNumbers()
    with ExitStack() as stack:
        replicas = [
            stack.enter_context(running(our_launch(model, numbers, folders.variables)))
            for folders in stack.enter_context(cache_folders(setup))
        ]
        urls = [replica.base_url for replica in replicas]
        yield stack.enter_context(running(router_launch(setup.policy, urls))).base_url


@contextmanager
def cache_folders(setup: Setup) -> Iterator[list[CacheFolders]]:
    with ExitStack() as stack:
        folders = [
            stack.enter_context(temporary_cache(with_disk=True)) for _ in range(_NUM_REPLICAS)
        ]
        if setup.shares_disk:
            folders = [replace(each, disk=folders[0].disk) for each in folders]
        yield folders


def router_launch(policy: str, urls: Sequence[str]) -> Launch:
    command = [sys.executable, "-m", "vllm_router.launch_router", "--port", "{port}"]
    options = ["--policy", policy, "--prometheus-port", str(free_port()), "--worker-urls", *urls]
    return Launch([*command, *options], {"PYTHONPATH": str(_ROUTER_FOLDER)})


def ask(url: str, request: Request) -> Answer:
    headers = {
        "Content-Type": "application/json",
        "x-session-id": f"conversation {request.conversation}",
        "x-include-item-sources": "1",
    }
    start = time.perf_counter()
    response = httpx.post(
        f"{url}/v1/chat/completions",
        content=request.body,
        headers=headers,
        timeout=_TIMEOUT_S,
        trust_env=False,
    )
    seconds = time.perf_counter() - start
    response.raise_for_status()
    usage = response.json()["usage"]
    details = usage["prompt_tokens_details"]
    return Answer(
        details["item_sources"], usage["prompt_tokens"], details["cached_tokens"], seconds
    )


def make_row(setup: Setup, answers: Sequence[Answer]) -> Row:
    counts = Counter(source for answer in answers for source in answer.sources)
    num_tokens = sum(answer.num_prompt_tokens for answer in answers)
    return Row(
        setup.policy,
        setup.shares_disk,
        counts.total(),
        {source: counts[source] / counts.total() for source in _SOURCES},
        sum(answer.num_cached_tokens for answer in answers) / num_tokens,
        statistics.median(answer.seconds for answer in answers),
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown, so that it can be pasted."""
    names = ["policy", "disk tier", *_SOURCES, "tokens from the KV cache", "request, median"]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for row in rows:
        shares = [*row.source_shares.values(), row.cached_token_share]
        percents = [f"{share:.0%}" for share in shares]
        disk = "shared" if row.shares_disk else "one each"
        cells = [row.policy, disk, *percents, f"{row.median_s:.2f} s"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
