"""The first answers after a restart, about images that were asked about before it.

    python -m benchmarks.restart --stock-python STOCK/bin/python

Both servers see the images, are ended and started again, and are asked about them with another
text. Ours keeps its cache: on disk alone, as after a restart of the machine, or in shared memory as
well, as after a restart of the process. What starting takes is not part of the times.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.arguments import Arguments, parse_arguments
from benchmarks.cache import CacheFolders, temporary_cache
from benchmarks.client import user
from benchmarks.pair import running_pair
from benchmarks.pictures import encode, image_part, photo
from benchmarks.report import Aim, Report, Sample, median_row

Tier = Literal["disk", "shared memory"]

_RESTARTS: tuple[Tier, ...] = ("disk", "shared memory") * 2
_NUM_IMAGES = 12
_WIDTH, _HEIGHT = 1024, 768


@dataclass(frozen=True, slots=True)
class Restart:
    """Seconds to the first tokens, in the order of the requests; what of the cache was left."""

    kept: Tier
    samples: Sequence[Sample]


def main() -> None:
    arguments = parse_arguments(__doc__)
    images = [
        image_part(encode(photo(seed, _WIDTH, _HEIGHT), "JPEG"), "JPEG")
        for seed in range(_NUM_IMAGES)
    ]
    with temporary_cache(with_disk=True) as cache:
        before = run(arguments, cache, images, "Before any restart")
        restarts = []
        for index, kept in enumerate(_RESTARTS):
            if kept == "disk":
                cache.empty_host()
            samples = run(arguments, cache, images, f"After restart {index}")
            restarts.append(Restart(kept, samples))
    report(before, restarts).print()


def run(
    arguments: Arguments, cache: CacheFolders, images: Sequence[dict[str, object]], text: str
) -> list[Sample]:
    """Start both servers, ask about every image, end them."""
    with running_pair(arguments, cache) as pair:
        return [pair.first_token([user(f"{text}: what is this?", image)]) for image in images]


def report(before: Sequence[Sample], restarts: Sequence[Restart]) -> Report:
    rows = [median_row("images not seen before", before, "s")]
    aims = []
    for tier in dict.fromkeys(_RESTARTS):
        kept = [restart.samples for restart in restarts if restart.kept == tier]
        name = "cache left on disk" if tier == "disk" else "cache left in shared memory"
        every = median_row(f"{name}: all requests", [s for samples in kept for s in samples], "s")
        first = median_row(f"{name}: first request", [samples[0] for samples in kept], "s")
        rows += [first, every]
        aims.append(Aim(f"{name}: first token, times sooner", every.ratio, 5))
    return Report("restart", rows, aims)


if __name__ == "__main__":
    main()
