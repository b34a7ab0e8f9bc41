"""Threads of the event loop, for prompts that are rendered and long bodies: clients take turns."""

import asyncio
import os

from multimodal.fair_threads import FairThreads


def use_fair_threads(loop: asyncio.AbstractEventLoop, num_threads: int | None = None) -> None:
    """Make `asyncio.to_thread` take the work of one client after the other's.

    By itself it goes by the order of coming, so that many huge prompts of one client, which take up
    to half a second each, come before the small one of another.

    Args:
        num_threads: None: as many as an event loop has by itself.
    """
    count = num_threads or min(32, (os.cpu_count() or 1) + 4)
    loop.set_default_executor(FairThreads(count, "fair", _do_nothing))


def _do_nothing() -> None:
    pass
