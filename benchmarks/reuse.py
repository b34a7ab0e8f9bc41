"""Requests per second when a share of the images has been asked about before.

    python -m benchmarks.reuse --stock-python STOCK/bin/python

Every request is about one image, with a text before it that no other request has: the KV cache
cannot help. Known images come in another order than before, and there are several times more of
them than vLLM's own cache of embeddings holds (16,384 tokens).
"""

import random
from collections.abc import Iterator, Sequence
from itertools import count

from benchmarks.arguments import parse_arguments
from benchmarks.cache import temporary_cache
from benchmarks.client import user
from benchmarks.pair import Pair, running_pair
from benchmarks.pictures import encode, image_part, photo
from benchmarks.report import Aim, Report, Sample, median_row

_REUSE_PERCENTS = (0, 50, 80, 95)
_NUM_ROUNDS = 3
_NUM_REQUESTS = 64  # of one measurement
_NUM_CONNECTIONS = 8
_WIDTH, _HEIGHT = 1024, 768  # 768 tokens

Part = dict[str, object]


def main() -> None:
    arguments = parse_arguments(__doc__)
    with temporary_cache() as cache, running_pair(arguments, cache, _NUM_CONNECTIONS) as pair:
        new_images = _images()
        _throughput(pair, [next(new_images) for _ in range(_NUM_CONNECTIONS)], seed=0)  # warm-up
        rounds = [run_round(pair, new_images, seed) for seed in range(1, _NUM_ROUNDS + 1)]
    report(rounds).print()


def run_round(pair: Pair, new_images: Iterator[Part], seed: int) -> list[Sample]:
    """Requests per second for each of the percentages, the first of which makes images known."""
    known: list[Part] = []
    samples = []
    for percent in _REUSE_PERCENTS:
        num_known = _NUM_REQUESTS * percent // 100
        new = [next(new_images) for _ in range(_NUM_REQUESTS - num_known)]
        mixed = mix(known, num_known, new, seed + percent)
        samples.append(_throughput(pair, mixed, seed=seed * 100 + percent))
        known += new
    return samples


def mix(known: Sequence[Part], num_known: int, new: Sequence[Part], seed: int) -> list[Part]:
    """`num_known` different ones of the known images and all new ones, in random order."""
    generator = random.Random(seed)
    mixed = [*generator.sample(known, num_known), *new]
    generator.shuffle(mixed)
    return mixed


def report(rounds: Sequence[Sequence[Sample]]) -> Report:
    rows = [
        median_row(f"{percent} % known images", [r[index] for r in rounds], "requests/s")
        for index, percent in enumerate(_REUSE_PERCENTS)
    ]
    ratios = dict(zip(_REUSE_PERCENTS, (row.ratio for row in rows), strict=True))
    aims = [
        Aim("throughput at 80 %, times stock's", ratios[80], 3),
        Aim("throughput at 0 %, times stock's", ratios[0], 0.97),
    ]
    return Report("reuse", rows, aims)


def _throughput(pair: Pair, images: Sequence[Part], seed: int) -> Sample:
    return pair.throughput(
        [
            [user(f"Request {seed}, question {index}: what is this?", image)]
            for index, image in enumerate(images)
        ]
    )


def _images() -> Iterator[Part]:
    for seed in count():
        yield image_part(encode(photo(seed, _WIDTH, _HEIGHT), "JPEG"), "JPEG")


if __name__ == "__main__":
    main()
