"""What the processes of a server take at one moment, told apart by what they are for."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

SERVER, ENGINE = "server", "engine"
_ENGINE_TITLE = "EngineCore"


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """Of all processes of one role together.

    Attributes:
        rss_bytes: resident, pages shared with other processes included.
        pss_bytes: of a page shared by n processes, one n-th.
        uss_bytes: only what no other process has.
    """

    num_processes: int = 0
    rss_bytes: int = 0
    pss_bytes: int = 0
    uss_bytes: int = 0
    num_fds: int = 0
    num_threads: int = 0

    def __add__(self, other: "ProcessUse") -> "ProcessUse":
        own, others = asdict(self), asdict(other)
        return ProcessUse(**{name: value + others[name] for name, value in own.items()})


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment.

    Attributes:
        num_requests: that have ended so far, however.
        uses: by role.
        tier_bytes: of the cache's folders, by name.
        num_in_flight: requests that the server counts as under way; None if it does not tell.
    """

    elapsed_s: float
    num_requests: int
    uses: Mapping[str, ProcessUse]
    tier_bytes: Mapping[str, int]
    num_in_flight: float | None = None

    def to_row(self) -> dict[str, Any]:
        """Flat, for a table: `engine.uss_bytes`."""
        uses = {
            f"{role}.{name}": value
            for role, use in self.uses.items()
            for name, value in asdict(use).items()
        }
        tiers = {f"tier.{name}_bytes": value for name, value in self.tier_bytes.items()}
        return {
            "elapsed_s": round(self.elapsed_s, 2),
            "num_requests": self.num_requests,
            "num_in_flight": self.num_in_flight,
            **uses,
            **tiers,
        }


def measure_uses(pid: int) -> dict[str, ProcessUse]:
    """Of a process and its descendants, by role; those that end meanwhile are left out."""
    uses: dict[str, ProcessUse] = {}
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                role = SERVER if process == root else _role_of(process)
                uses[role] = uses.get(role, ProcessUse()) + _measure(process)
    return uses


def folder_bytes(folder: Path) -> int:
    """Of all files below it."""
    return sum(_file_sizes(folder))


def _file_sizes(folder: Path) -> Iterator[int]:
    for directory, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # the cache evicts
                yield os.stat(os.path.join(directory, name)).st_size


def _measure(process: psutil.Process) -> ProcessUse:
    memory = process.memory_full_info()
    return ProcessUse(
        num_processes=1,
        rss_bytes=memory.rss,
        pss_bytes=memory.pss,
        uss_bytes=memory.uss,
        num_fds=process.num_fds(),
        num_threads=process.num_threads(),
    )


def _role_of(process: psutil.Process) -> str:
    """The module that it runs, or the engine, whose processes have a title."""
    command = process.cmdline()
    if any(_ENGINE_TITLE in part for part in command):
        return ENGINE
    if "-m" in command[:-1]:
        return command[command.index("-m") + 1]
    return "others"
