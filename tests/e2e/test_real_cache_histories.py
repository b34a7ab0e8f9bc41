"""Random histories of a server with a small vision cache: every answer is that without a cache."""

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pytest

from tests.e2e.real_cache import (
    DAMAGES,
    Reply,
    abandon,
    ask,
    count,
    count_in_tier,
    entries,
    frames_part,
    picture_part,
    start,
    window_part,
)
from tests.e2e.real_media import text
from tests.e2e.real_server import RealServer, wait_until

pytestmark = pytest.mark.slow

# The device holds 7 pictures, the host tier about as much, the disk tier half of all that is sent.
OPTIONS = {"max_model_len": 512, "max_num_batched_tokens": 256, "device_bytes": 1}
BUDGETS = {"host": 1_000_000, "disk": 1_600_000}
NUM_REQUESTS = 20  # different ones in a history
MAX_AT_ONCE = 5
PARTS = [
    *map(picture_part, range(14)),
    *(picture_part(seed, "JPEG") for seed in range(4)),
    *(window_part(*window) for window in [(0, 2), (1, 3), (0, 3), (0.9, 2.9)]),
    *(frames_part(range(first, first + 4)) for first in (0, 1, 2, 4)),
]
WORDS = ["Look:", "What is the largest shape?", "How many are there?", "What is it?"]


@pytest.fixture(scope="module")
def cacheless(logs: Path) -> Iterator[RealServer]:
    """It has no tiers but the device's, and every request gets a key of its own."""
    with start(logs / "cacheless", host_bytes=0) as server:
        yield server


class History:
    """Requests and damages, drawn one after another; a test prints them if it fails.

    Attributes:
        seen: how often there was what a history is to have, such as hits and damage.
    """

    def __init__(self, seed: int, folder: Path, cacheless: RealServer) -> None:
        self._rng = random.Random(f"history/{seed}")
        self._directories = {tier: folder / tier for tier in BUDGETS}
        self._folder = folder
        self._names: set[Path] = set()  # of all files that were damaged
        self._unsent: list[Any] = []
        self._requests = [self._draw_request() for _ in range(NUM_REQUESTS)]
        with ThreadPoolExecutor(MAX_AT_ONCE) as threads:
            self._expected = list(
                threads.map(
                    lambda content: ask(cacheless, content, api_key=uuid4().hex), self._requests
                )
            )
        self.seen: Counter[str] = Counter()

    def run(self, num_actions: int, num_starts: int) -> None:
        """Every second server is killed, so that it leaves half of what it does undone."""
        for index in range(num_starts):
            # vLLM puts sockets there, which a killed process leaves behind
            with TemporaryDirectory() as temporary, self._start(index, temporary) as server:
                for _ in range(num_actions // num_starts):
                    self._act(server)
                self._look_at(server)
                if index % 2 == 0:
                    self._ask(server, is_damaging=True)
                    server.process.kill()
                    server.wait()
                    server.assert_nothing_left()
                else:
                    self._wait_for_budgets(server)

    def _start(self, index: int, temporary: str) -> RealServer:
        tiers = {f"{tier}_dir": directory for tier, directory in self._directories.items()}
        budgets = {f"{tier}_bytes": num_bytes for tier, num_bytes in BUDGETS.items()}
        options = {**OPTIONS, **tiers, **budgets}
        return start(self._folder / f"log{index}", {"TMPDIR": temporary}, **options)

    def _draw_request(self) -> list[Any]:
        num_parts = self._rng.choice([1, 2, 3, 4, 4])
        if len(self._unsent) < num_parts:
            self._unsent = self._rng.sample(PARTS, len(PARTS))
        parts = [self._unsent.pop() for _ in range(num_parts)]
        if self._rng.random() < 0.2:
            parts[-1] = parts[0]
        before = [text(self._rng.choice(WORDS))] * self._rng.randrange(2)
        return [*before, *parts, text(self._rng.choice(WORDS))]

    def _act(self, server: RealServer) -> None:
        weights = {"ask": 8, "ask and damage": 6, "damage": 4, "remove": 1, "clutter": 1}
        (action,) = self._rng.choices(list(weights), list(weights.values()))
        if action.startswith("ask"):
            self._ask(server, is_damaging=action != "ask")
        elif action == "damage":
            self._damage()
        elif action == "remove":
            self._remove()
        else:
            self._clutter()

    def _ask(self, server: RealServer, *, is_damaging: bool) -> None:
        """Several at once, some of them the same, and clients of some that do not wait.

        Args:
            is_damaging: whether files are damaged meanwhile.
        """
        indices = self._rng.choices(range(NUM_REQUESTS), k=self._rng.randint(1, MAX_AT_ONCE))
        streamed = [self._rng.random() < 0.3 for _ in indices]
        left = self._rng.choices(indices, k=self._rng.choice([0, 0, 1, 2]))
        timeouts_s = [self._rng.uniform(0.01, 0.2) for _ in left]
        print("requests", indices, "left", left)
        with ThreadPoolExecutor(2 * MAX_AT_ONCE) as threads:
            for index, timeout_s in zip(left, timeouts_s, strict=True):
                threads.submit(abandon, server, self._requests[index], timeout_s)
            running = [
                threads.submit(ask, server, self._requests[index], is_streamed=is_streamed)
                for index, is_streamed in zip(indices, streamed, strict=True)
            ]
            if is_damaging:
                self._damage()
            replies = [future.result() for future in running]
        for index, reply in zip(indices, replies, strict=True):
            self._check(index, reply)

    def _check(self, index: int, reply: Reply) -> None:
        reply.assert_same_as(self._expected[index])
        self.seen.update(f"source {source}" for source in reply.sources)

    def _damage(self) -> None:
        for _ in range(self._rng.randint(1, 4)):
            tier, share = self._rng.choice(list(BUDGETS)), self._rng.random()
            kind = self._rng.choice([*DAMAGES, "deleted", "random"])
            paths = entries(self._directories[tier])
            if not paths:
                continue
            path = paths[int(share * len(paths))]
            self._names.add(path)
            print(kind, tier, path.name)
            with suppress(OSError):  # the server has removed the file meanwhile
                if kind == "deleted":
                    path.unlink()
                elif kind == "random":
                    path.write_bytes(self._rng.randbytes(len(paths) * 1000))
                else:
                    DAMAGES[kind](path, paths[0])

    def _remove(self) -> None:
        directory = self._directories[self._rng.choice(list(BUDGETS))]
        print("removed", directory.name)
        shutil.rmtree(directory, ignore_errors=True)

    def _clutter(self) -> None:
        """Files that are nobody's: with the names of entries, and where entries are to be."""
        tier = self._rng.choice(list(BUDGETS))
        directory = self._directories[tier]
        print("cluttered", tier)
        noise = self._rng.randbytes(200_000)
        for path in [
            directory / "README",
            directory / "0123" / "ab" / ".0.tmp",
            *(directory / "0123" / "ab" / f"{self._rng.randrange(10**9):064x}.vision",) * 3,
            *self._rng.sample(sorted(self._names), min(3, len(self._names))),
        ]:
            with suppress(OSError):
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.unlink(missing_ok=True)  # it may be a link or a pipe
                path.write_bytes(noise)
        for folder in sorted(directory.glob("*/*"))[:1]:
            with suppress(OSError):
                shutil.rmtree(folder)
                folder.write_bytes(noise)

    def _look_at(self, server: RealServer) -> None:
        """Once a server: its counts begin at zero."""
        self.seen["retries"] += count(server).retries
        self.seen["left"] += int(server.sample("qwen3vl_requests_total", outcome="aborted"))
        self.seen["hits device"] += count_in_tier(server, "device", "hits")
        for tier in BUDGETS:
            for name in ("hits", "damaged", "evictions", "write_errors"):
                self.seen[f"{name} {tier}"] += count_in_tier(server, tier, name)

    def _wait_for_budgets(self, server: RealServer) -> None:
        """What is written next makes a tier look at its directory."""
        for seed in range(100, 102):
            ask(server, [picture_part(seed)], api_key=uuid4().hex)
        for tier, directory in self._directories.items():
            wait_until(lambda: _num_bytes(directory) <= BUDGETS[tier])  # noqa: B023


def _num_bytes(directory: Path) -> int:
    total = 0
    for path in entries(directory):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def assert_seen(history: History) -> None:
    """It has not been true in vain."""
    wanted = [
        *(f"hits {tier}" for tier in ("device", *BUDGETS)),
        "source prefix",
        "retries",
        "left",
    ]
    assert all(history.seen[name] > 0 for name in wanted), history.seen
    assert history.seen["damaged host"] + history.seen["damaged disk"] > 0, history.seen


def test_every_answer_of_a_short_history_is_that_without_a_cache(
    tmp_path: Path, cacheless: RealServer
):
    history = History(0, tmp_path, cacheless)
    history.run(num_actions=60, num_starts=2)
    assert_seen(history)


def test_every_answer_of_a_long_history_is_that_without_a_cache(
    tmp_path: Path, cacheless: RealServer
):
    history = History(100, tmp_path, cacheless)
    history.run(num_actions=160, num_starts=4)
    assert_seen(history)
