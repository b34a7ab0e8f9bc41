"""Work that `asyncio.to_thread` does: a client with much of it lets others in between."""

import asyncio
import threading
from collections.abc import Callable

from multimodal.fair_threads import CURRENT_CLIENT
from server.fair_executor import use_fair_threads

HANG_S = 120


async def test_the_work_of_clients_takes_turns() -> None:
    use_fair_threads(asyncio.get_running_loop(), num_threads=1)
    gate, has_begun = threading.Event(), threading.Event()
    order: list[str] = []

    def block() -> None:
        has_begun.set()
        assert gate.wait(HANG_S)

    async def work_for(client: str, work: Callable[[], None]) -> None:
        CURRENT_CLIENT.set(client)
        await asyncio.to_thread(work)

    async with asyncio.timeout(HANG_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(work_for("flood", block))
        while not has_begun.is_set():
            await asyncio.sleep(0.001)
        for _ in range(5):
            tasks.create_task(work_for("flood", lambda: order.append("flood")))
        tasks.create_task(work_for("other", lambda: order.append("other")))
        await asyncio.sleep(0)  # all of it is handed in
        gate.set()
    assert order == ["flood", "other", *["flood"] * 4]


async def test_the_default_is_as_many_threads_as_before() -> None:
    loop = asyncio.get_running_loop()
    use_fair_threads(loop)
    assert await asyncio.gather(*(asyncio.to_thread(lambda: 7) for _ in range(50))) == [7] * 50
