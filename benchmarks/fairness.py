"""Do long prompts starve short ones? Times of short requests and of a stream beside long prefills.

    python -m benchmarks.fairness --stock-python STOCK/bin/python

Three servers in each round, one after the other and in random order: ours; ours without
`fair_prefill`; stock. Each is asked short questions
when nothing else runs, and again while one, three and six prompts of 30,000 tokens are prefilled
and an answer is streamed. No prompt begins like another: nothing comes from the prefix cache.
"""

import itertools
import random
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal, get_args

from benchmarks.arguments import Arguments, parse_arguments
from benchmarks.background_stream import BackgroundStream
from benchmarks.cache import temporary_cache
from benchmarks.client import ChatClient, user
from benchmarks.report import Aim, Report, Row
from benchmarks.servers import (
    SETTLE_S,
    EngineNumbers,
    Launch,
    end_on_sigterm,
    our_launch,
    running,
    stock_launch,
)
from benchmarks.shapes import checkpoint
from benchmarks.workload.words import unique_text

Side = Literal["ours", "ours, not fair", "stock"]
_SIDES: tuple[Side, ...] = get_args(Side)
_NUM_ROUNDS = 3
_NUM_LONG = (1, 3, 6)  # prompts that are prefilled at once
_LONG_WORDS = 6500  # 30,000 tokens of the small vocabulary
_SHORT_WORDS = 12
_NUM_ALONE = 5  # short requests without company
_STREAMED_TOKENS = 4000  # more than there is time for
_START_TOKENS = 10
_RENDERING_S = 0.5  # until the long prompts are in the engine
_MAX_STEPS = 4  # until the first token of a short request


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, of one server.

    Attributes:
        short: first tokens of the short requests.
        between: from one token of the stream to the next.
        long: first tokens of the long prompts; empty where there are none.
    """

    short: Sequence[float]
    between: Sequence[float]
    long: Sequence[float] = ()


# by the number of long prompts
Measured = Mapping[int, Times]


def main() -> None:
    arguments = parse_arguments(__doc__)
    end_on_sigterm()
    order = random.Random(0)
    found: dict[Side, list[Measured]] = {side: [] for side in _SIDES}
    for index in range(_NUM_ROUNDS):
        for side in order.sample(_SIDES, len(_SIDES)):
            found[side].append(measure(side, arguments, seed=index))
            print(f"round {index}, {side}: {_summary(found[side][-1])}", file=sys.stderr)
    report({side: merged(rounds) for side, rounds in found.items()}).print()


def measure(side: Side, arguments: Arguments, seed: int) -> Measured:
    """Start the server, ask it, and end it."""
    texts = _texts(random.Random(f"{seed}"))
    with (
        temporary_cache() as cache,
        running(_launch(side, arguments, cache.variables)) as server,
        ChatClient(server.base_url) as client,
    ):
        client.first_token([user(next(texts))])  # warm-up
        time.sleep(SETTLE_S)
        measured = {0: _alone(client, server.base_url, texts)}
        for num_long in _NUM_LONG:
            time.sleep(SETTLE_S)
            measured[num_long] = _beside(num_long, client, server.base_url, texts, seed)
        return measured


def _launch(side: Side, arguments: Arguments, cache: Mapping[str, str]) -> Launch:
    folder = checkpoint(arguments.checkpoints, arguments.shape)
    numbers = EngineNumbers(max_num_batched_tokens=2048)
    if side == "stock":
        return stock_launch(arguments.stock_python, folder, numbers)
    launch = our_launch(folder, numbers, cache)
    if side == "ours":
        return launch
    return replace(launch, command=[*launch.command, "--fair-prefill", "false"])


def _texts(generator: random.Random) -> Iterator[str]:
    while True:
        yield unique_text(generator, _SHORT_WORDS, "What is it?")


def _alone(client: ChatClient, base_url: str, texts: Iterator[str]) -> Times:
    with BackgroundStream(base_url, [user(next(texts))], _STREAMED_TOKENS) as stream:
        stream.wait_for_tokens(_START_TOKENS + 100)
        between = _gaps(stream.times_s[_START_TOKENS:])
    time.sleep(SETTLE_S)
    short = [client.first_token([user(next(texts))]).seconds for _ in range(_NUM_ALONE)]
    return Times(short, between)


def _beside(
    num_long: int, client: ChatClient, base_url: str, texts: Iterator[str], seed: int
) -> Times:
    """Raises: RuntimeError if the long prompts are not as long as they should be."""
    generator = random.Random(f"{seed}-{num_long}")
    short: list[float] = []
    with ExitStack() as stack:
        stream = stack.enter_context(
            BackgroundStream(base_url, [user(next(texts))], _STREAMED_TOKENS)
        )
        stream.wait_for_tokens(_START_TOKENS)
        long = [
            stack.enter_context(BackgroundStream(base_url, [user(text)], max_tokens=1))
            for text in (unique_text(generator, _LONG_WORDS, "And?") for _ in range(num_long))
        ]
        begin_s = time.perf_counter()
        time.sleep(_RENDERING_S)
        while not short or not all(prompt.times_s for prompt in long):
            short.append(client.first_token([user(next(texts))]).seconds)
        for prompt in long:
            prompt.wait_for_end()
        end_s = max(prompt.times_s[0] for prompt in long)
        between = _gaps([t for t in list(stream.times_s) if begin_s <= t <= end_s])
    if not all(25_000 < prompt.num_prompt_tokens < 32_000 for prompt in long):
        raise RuntimeError(f"long prompts of {[p.num_prompt_tokens for p in long]} tokens")
    return Times(short, between, [prompt.times_s[0] - prompt.start_s for prompt in long])


def _gaps(times_s: Sequence[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(times_s)]


def merged(rounds: Sequence[Measured]) -> Measured:
    """All times of all rounds together."""
    return {
        num_long: Times(
            [t for measured in rounds for t in measured[num_long].short],
            [t for measured in rounds for t in measured[num_long].between],
            [t for measured in rounds for t in measured[num_long].long],
        )
        for num_long in rounds[0]
    }


def report(found: Mapping[Side, Measured]) -> Report:
    rows = [
        row
        for other in _SIDES[1:]
        for num_long in found["ours"]
        for row in _rows(num_long, found["ours"][num_long], found[other][num_long], other)
    ]
    most = max(_NUM_LONG)
    short = {side: statistics.median(found[side][most].short) for side in _SIDES}
    step = statistics.median(found["ours"][most].between)  # the stream has a token of each
    aims = [
        Aim(
            f"ours: first token beside {most} long, in steps",
            short["ours"] / step,
            _MAX_STEPS,
            False,
        ),
        Aim(f"first token beside {most} long, times sooner", short["stock"] / short["ours"], 3),
    ]
    return Report("fairness", rows, aims)


def _rows(num_long: int, ours: Times, other: Times, name: Side) -> Iterator[Row]:
    where = f"beside {num_long} long" if num_long else "alone"
    against = "" if name == "stock" else f" [second: {name}]"
    pairs = {
        "short, first token": (ours.short, other.short),
        "stream, time between tokens": (ours.between, other.between),
        "long, first token": (ours.long, other.long),
    }
    for what, (own, others) in pairs.items():
        for kind, of in (("median", statistics.median), ("worst", max)):
            if own and others:
                label = f"{where}: {what}, {kind}{against}"
                yield Row(label, of(own) * 1000, of(others) * 1000, "ms")


def _summary(measured: Measured) -> str:
    return "; ".join(
        f"{num_long} long: {len(times.short)} short {statistics.median(times.short):.2f} s"
        for num_long, times in measured.items()
    )


if __name__ == "__main__":
    main()
