"""The folders of the vision cache fail while a real server uses them: its answers go on."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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

QUESTION = text("What is it?")
NUM_ON_DEVICE = 7  # pictures
NOBODY = 65534


@dataclass(frozen=True)
class Host:
    """The host tier of a running server; `mount` is the file system that it has for itself."""

    server: RealServer
    directory: Path
    mount: Path | None

    def count(self, name: str) -> int:
        return count_in_tier(self.server, "host", name)

    def wait_for_more(self, name: str, than: int) -> None:
        wait_until(lambda: self.count(name) > than)

    def ask_new(self, seed: int) -> Reply:
        """Send a picture, wait until it is written, and let others take its place on the device."""
        num_written = len(entries(self.directory))
        reply = ask(self.server, [picture_part(seed), QUESTION])
        assert reply.sources == ("encoded",)
        wait_until(lambda: len(entries(self.directory)) > num_written)
        self.ask_others()
        return reply

    def ask_others(self) -> None:
        """As many pictures as the device holds."""
        for seed in range(10, 10 + NUM_ON_DEVICE):
            ask(self.server, [picture_part(seed), QUESTION])

    def ask_again(self, seed: int) -> Reply:
        return ask(self.server, [picture_part(seed), QUESTION])

    def assert_answers(self, seed: int) -> None:
        """A picture gets the same answer when it is new, when it is not, and from others."""
        content = [picture_part(seed), QUESTION]
        first, *others = [ask(self.server, content, api_key=key) for key in ("a", "a", "b")]
        for other in others:
            other.assert_same_as(first)
        assert self.server.http.get("/health").status_code == 200


@pytest.fixture(scope="module")
def host(mount: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("live")
    directory = (mount or folder) / "host"
    options = {"max_model_len": 512, "max_num_batched_tokens": 256, "device_bytes": 1}
    with start(folder / "log", host_dir=directory, host_bytes=1 << 30, **options) as server:
        host = Host(server, directory, mount)
        host.ask_others()
        wait_until(lambda: len(entries(directory)) == NUM_ON_DEVICE)
        yield host


def test_an_entry_is_found_after_it_left_the_device(host: Host):
    """So the other tests are about files."""
    first, again = host.ask_new(30), host.ask_again(30)
    assert again.sources == ("host",)
    again.assert_same_as(first)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_entry_is_encoded_again(host: Host, kind: str):
    seed = 40 + list(DAMAGES).index(kind)
    before = entries(host.directory)
    first = host.ask_new(seed)
    (path,) = set(entries(host.directory)) - set(before)
    damaged = host.count("damaged")
    DAMAGES[kind](path, before[0])
    again = host.ask_again(seed)
    assert again.sources == ("encoded",)
    again.assert_same_as(first)
    assert host.count("damaged") == damaged + 1
    if kind != "directory":  # which nobody removes
        wait_until(lambda: path.is_file() and not path.is_symlink())


def test_a_removed_directory_costs_a_miss_and_is_made_again(host: Host):
    first = host.ask_new(31)
    misses, retries = host.count("misses"), count(host.server).retries
    shutil.rmtree(host.directory)
    again = host.ask_again(31)
    assert again.sources == ("encoded",)
    again.assert_same_as(first)
    assert host.count("misses") > misses
    assert count(host.server).retries == retries + 1
    wait_until(lambda: len(entries(host.directory)) == 1)


def test_a_full_file_system_fails_the_write_alone(host: Host):
    if host.mount is None:
        pytest.skip("needs a small file system, and this user may not mount one")
    errors = host.count("write_errors")
    with filled(host.mount):
        host.assert_answers(32)
        host.wait_for_more("write_errors", errors)
        host.assert_answers(33)
    host.ask_new(34)
    assert host.ask_again(34).sources == ("host",)


def test_a_read_only_directory_is_read_and_not_written(host: Host):
    if host.mount is None and os.geteuid() == 0:
        pytest.skip("root writes to read-only folders, and may not mount a file system here")
    first = host.ask_new(35)
    errors = host.count("write_errors")
    with read_only(host):
        again = host.ask_again(35)
        host.assert_answers(36)
        host.wait_for_more("write_errors", errors)
    assert again.sources == ("host",)
    again.assert_same_as(first)


def test_a_file_in_place_of_the_directory_is_neither_read_nor_written(host: Host):
    """The last test of this server: a scan that sees the file turns the tier off."""
    first = host.ask_new(37)
    errors = host.count("write_errors")
    shutil.rmtree(host.directory)
    host.directory.write_text("a file")
    again = host.ask_again(37)
    assert again.sources == ("encoded",)
    again.assert_same_as(first)
    host.assert_answers(38)
    host.wait_for_more("write_errors", errors)
    assert host.directory.read_text() == "a file"


@contextmanager
def filled(mount: Path) -> Iterator[None]:
    """Nothing more can be written to a file system."""
    path = mount / "foreign"
    try:
        with path.open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(bytes(4096))
        yield
    finally:
        path.unlink()


@contextmanager
def read_only(host: Host) -> Iterator[None]:
    if host.mount is not None:
        remount = ["mount", "-o", "remount,{}", str(host.mount)]
        subprocess.run([part.format("ro") for part in remount], check=True)
        try:
            yield
        finally:
            subprocess.run([part.format("rw") for part in remount], check=True)
        return
    folders = [host.directory, *(path for path in host.directory.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        yield
    finally:
        for folder in folders:
            folder.chmod(0o700)


# Folders that cannot be trusted when the server starts.


@dataclass(frozen=True)
class Untrusted:
    """A server with a link as its host tier, and a folder of others as its disk tier."""

    server: RealServer
    target: Path
    foreign: Path


@pytest.fixture(scope="module")
def untrusted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Untrusted]:
    folder = tmp_path_factory.mktemp("untrusted")
    target, link = folder / "target", folder / "link"
    target.mkdir(mode=0o700)
    link.symlink_to(target)
    foreign = make_foreign(folder / "open")
    with start(folder / "log", host_dir=link, disk_dir=foreign) as server:
        yield Untrusted(server, target, foreign)


def make_foreign(parent: Path) -> Path:
    """A folder, where everybody may make one, that is not this user's alone."""
    parent.mkdir()
    parent.chmod(0o1777)
    foreign = parent / "foreign"
    foreign.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(foreign, NOBODY, NOBODY)
    else:
        foreign.chmod(0o777)
    return foreign


def test_a_server_with_untrusted_directories_starts_and_answers(untrusted: Untrusted):
    content = [picture_part(1), QUESTION]
    replies = [ask(untrusted.server, content) for _ in range(2)]
    assert [reply.sources for reply in replies] == [("encoded",), ("device",)]
    replies[1].assert_same_as(replies[0])


def test_untrusted_directories_are_left_alone(untrusted: Untrusted):
    ask(untrusted.server, [picture_part(2), QUESTION])
    for tier in ("host", "disk"):
        assert count_in_tier(untrusted.server, tier, "write_errors") == 0
        assert count_in_tier(untrusted.server, tier, "written_bytes") == 0
    assert list(untrusted.target.iterdir()) == []
    assert list(untrusted.foreign.iterdir()) == []


@pytest.mark.parametrize("tier", ["host", "disk"])
def test_each_process_says_once_that_a_tier_is_off(untrusted: Untrusted, tier: str):
    lines = [line for line in untrusted.server.log.splitlines() if f"{tier} vision cache" in line]
    assert len(lines) == 2, lines  # the server and the engine
    assert all(" is off: " in line for line in lines)
