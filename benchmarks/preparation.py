"""A process that prepares requests for the engine and says what each took.

It reads a JSON list of paths of request bodies a line, prepares one after the other, and answers
with a line that starts with `ANSWER_MARK` (vLLM writes its log to stdout as well): for each, the
milliseconds of CPU time that all threads of the process spent.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

ANSWER_MARK = "milliseconds: "

Prepare = Callable[[bytes], Awaitable[object]]


async def answer(prepare: Prepare) -> None:
    """Until stdin ends. Bodies are in memory when the clock starts, as they are in a server."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        bodies = [Path(path).read_bytes() for path in json.loads(line)]
        times_ms = [await _measure_ms(prepare, body) for body in bodies]
        print(f"{ANSWER_MARK}{json.dumps(times_ms)}", flush=True)


async def _measure_ms(prepare: Prepare, body: bytes) -> float:
    start_s = time.process_time()
    await prepare(body)
    return (time.process_time() - start_s) * 1000
