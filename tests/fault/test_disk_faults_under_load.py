"""The folder of the disk tier fails while eight clients ask about pictures: no request does."""

import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.real_cache import (
    DAMAGES,
    Reply,
    ask,
    count,
    count_in_tier,
    entries,
    picture_part,
    start,
)
from tests.e2e.real_media import text
from tests.e2e.real_server import RealServer, wait_until

pytestmark = [pytest.mark.alone, pytest.mark.slow]

QUESTION = text("What is it?")
NUM_CLIENTS, NUM_PICTURES = 8, 16
NUM_QUESTIONS = 12  # of each client, while a fault goes on


@dataclass(frozen=True)
class Disk:
    """A server whose embeddings of pictures are on the disk alone, and what it says of them.

    Attributes:
        mount: the file system that the directory has for itself; None if it has none.
    """

    server: RealServer
    directory: Path
    mount: Path | None
    expected: tuple[Reply, ...]

    def ask_about(self, index: int) -> Reply:
        return ask(self.server, [picture_part(100 + index), QUESTION])

    def count(self, name: str) -> int:
        return count_in_tier(self.server, "disk", name)


@pytest.fixture(scope="module")
def disk(mount: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    folder = tmp_path_factory.mktemp("live")
    directory = (mount or folder) / "tier"
    options = {"host_bytes": 0, "disk_dir": directory, "device_bytes": 1, "max_model_len": 512}
    with start(folder / "log", **options) as server:
        disk = Disk(server, directory, mount, ())
        expected = tuple(disk.ask_about(index) for index in range(NUM_PICTURES))
        wait_until(lambda: len(entries(directory)) == NUM_PICTURES)
        yield Disk(server, directory, mount, expected)


def ask_in_parallel(disk: Disk) -> None:
    """Every answer is right."""

    def ask_some(client: int) -> None:
        rng = random.Random(client)
        for _ in range(NUM_QUESTIONS):
            index = rng.randrange(NUM_PICTURES)
            disk.ask_about(index).assert_same_as(disk.expected[index])

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        list(pool.map(ask_some, range(NUM_CLIENTS)))


# ---- faults; each is done again and again while the clients ask


def damage_one(kind: str, disk: Disk, rng: random.Random) -> None:
    with suppress(OSError):  # it may be gone by now, or not be a file
        found = entries(disk.directory)
        if len(found) > 1:
            DAMAGES[kind](*rng.sample(found, 2))


def remove_one(disk: Disk, rng: random.Random) -> None:
    with suppress(OSError):
        found = entries(disk.directory)
        if found:
            rng.choice(found).unlink()


def remove_all(disk: Disk, rng: random.Random) -> None:
    shutil.rmtree(disk.directory, ignore_errors=True)


def move_away(disk: Disk, rng: random.Random) -> None:
    with suppress(OSError):
        moved = disk.directory.with_name("moved")
        disk.directory.rename(moved)
        shutil.rmtree(moved)


def change_permissions(disk: Disk, rng: random.Random) -> None:
    with suppress(OSError):
        for path in (disk.directory, *disk.directory.rglob("*")):
            path.chmod(rng.choice([0o000, 0o400, 0o500, 0o700, 0o777]))


def fill(disk: Disk, rng: random.Random) -> None:
    """Nothing more can be written, until there is a little room."""
    assert disk.mount is not None
    with suppress(OSError), (disk.mount / "foreign").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    remove_one(disk, rng)


def make_read_only(disk: Disk, rng: random.Random) -> None:
    """It fails while a file is being written."""
    remount = ["mount", "-o", f"remount,{rng.choice(['ro', 'rw'])}", str(disk.mount)]
    subprocess.run(remount, capture_output=True)


FAULTS: Mapping[str, Callable[[Disk, random.Random], None]] = {
    **{kind: partial(damage_one, kind) for kind in DAMAGES},
    "removed entries": remove_one,
    "removed directory": remove_all,
    "moved directory": move_away,
    "permissions": change_permissions,
    "full": fill,
    "read-only": make_read_only,
}


def repair(disk: Disk) -> None:
    if disk.mount is not None:
        subprocess.run(["mount", "-o", "remount,rw", str(disk.mount)], check=True)
        (disk.mount / "foreign").unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        disk.directory.chmod(0o700)
    shutil.rmtree(disk.directory, ignore_errors=True)


@pytest.fixture
def repaired(disk: Disk) -> Iterator[Disk]:
    yield disk
    repair(disk)


@pytest.mark.parametrize("kind", FAULTS)
def test_no_request_fails_while_the_disk_does(repaired: Disk, kind: str) -> None:
    disk, is_over, rng = repaired, threading.Event(), random.Random(kind)
    if disk.mount is None and kind in ("full", "read-only"):
        pytest.skip("needs a file system of its own, and this user may not mount one")

    def go_on() -> None:
        while not is_over.wait(0.02):
            FAULTS[kind](disk, rng)

    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(go_on)
        try:
            ask_in_parallel(disk)
        finally:
            is_over.set()
        failing.result()
    assert disk.server.http.get("/health").status_code == 200


def test_the_faults_were_met(disk: Disk) -> None:
    assert min(disk.count(name) for name in ("hits", "misses", "damaged")) > 0
    assert disk.count("write_errors") > 0 or disk.mount is None
    assert count(disk.server).retries > 0  # found by the server, and then lost to the engine


def test_the_disk_is_used_again_when_it_is_well(disk: Disk) -> None:
    ask_in_parallel(disk)
    wait_until(lambda: len(entries(disk.directory)) > 0)
    hits = disk.count("hits")
    ask_in_parallel(disk)
    assert disk.count("hits") > hits
    assert "Traceback" not in disk.server.log
    assert disk.server.sample("qwen3vl_requests_in_flight") == 0
    assert os.access(disk.directory, os.W_OK)
