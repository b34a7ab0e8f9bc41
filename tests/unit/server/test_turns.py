"""Who is next."""

import asyncio

import pytest

from server.turns import Turns


class Queue:
    """Clients at one `Turns`; each holds its turn until the gate is opened for one."""

    def __init__(self, num_at_once: int) -> None:
        self.turns = Turns(num_at_once)
        self.order: list[str] = []
        self._gate = asyncio.Semaphore(0)

    def ask(self, name: str) -> asyncio.Task[None]:
        """Args: name: of a request, `a1` is of the client `a`."""

        async def wait() -> None:
            async with self.turns.turn(name[0]):
                self.order.append(name)
                await self._gate.acquire()

        return asyncio.create_task(wait())

    def let_go(self, number: int) -> None:
        for _ in range(number):
            self._gate.release()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def queue() -> Queue:
    return Queue(1)


async def test_clients_take_turns(queue: Queue) -> None:
    tasks = [queue.ask(name) for name in ("a1", "a2", "a3", "b1", "b2", "c1")]
    await settle()
    queue.let_go(6)
    await asyncio.gather(*tasks)
    assert queue.order == ["a1", "a2", "b1", "c1", "a3", "b2"]


async def test_only_so_many_at_once() -> None:
    queue = Queue(2)
    tasks = [queue.ask(name) for name in ("a1", "a2", "a3", "b1")]
    await settle()
    assert queue.order == ["a1", "a2"]
    queue.let_go(1)
    await settle()
    assert len(queue.order) == 3
    queue.let_go(3)
    await asyncio.gather(*tasks)


async def test_who_gives_up_waiting_is_passed_over(queue: Queue) -> None:
    tasks = [queue.ask(name) for name in ("a1", "b1", "c1")]
    await settle()
    tasks[1].cancel()
    queue.let_go(2)
    await asyncio.gather(tasks[0], tasks[2])
    assert queue.order == ["a1", "c1"]


@pytest.mark.parametrize("num_steps", range(6))
async def test_a_turn_is_not_lost_with_who_was_to_get_it(queue: Queue, num_steps: int) -> None:
    first, second = queue.ask("a1"), queue.ask("b1")
    await settle()
    queue.let_go(1)
    for _ in range(num_steps):
        await asyncio.sleep(0)
    second.cancel()
    await settle()
    queue.let_go(1)
    async with asyncio.timeout(10):
        await queue.ask("c1")
        await first
