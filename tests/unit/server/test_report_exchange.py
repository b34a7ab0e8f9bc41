import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from server.report_exchange import ReportExchange


class Process:
    """One of those that exchange reports. `failures`: raised for the next reports."""

    def __init__(self, folder: Path, index: int, count: int) -> None:
        self.found: list[tuple[int, dict]] = []
        self.failures: list[Exception] = []
        self.exchange = ReportExchange(folder, index, count, self._read)

    def _read(self, engine_index: int, report: dict) -> None:
        if self.failures:
            raise self.failures.pop()
        self.found.append((engine_index, report))


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:  # a socket's path must be short
        yield Path(name)


@pytest.fixture
async def processes(folder):
    processes = [Process(folder, index, 3) for index in range(3)]
    yield processes
    for process in processes:
        process.exchange.close()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.001)


async def test_all_others_are_told(processes):
    first, *others = processes
    first.exchange.send(1, {"needed": ["a"]})
    await until(lambda: all(process.found for process in others))
    assert [process.found for process in processes] == [[], *[[(1, {"needed": ["a"]})]] * 2]


async def test_reports_come_in_order(processes):
    for number in range(100):
        processes[0].exchange.send(0, {"number": number})
    await until(lambda: len(processes[2].found) == 100)
    assert [report["number"] for _, report in processes[2].found] == list(range(100))


async def test_a_process_that_comes_later_is_told(folder):
    first = Process(folder, 0, 2)
    first.exchange.send(0, {"number": 1})
    second = Process(folder, 1, 2)
    await until(lambda: bool(second.found))
    first.exchange.close()
    second.exchange.close()


async def test_one_that_is_gone_holds_up_nobody(processes):
    processes[1].exchange.close()
    for number in range(5000):
        processes[0].exchange.send(0, {"number": number})
    await until(lambda: len(processes[2].found) > 0)


async def test_a_report_that_cannot_be_read_is_not_the_last(processes, caplog):
    processes[1].failures.append(KeyError("needed"))
    processes[0].exchange.send(3, {})
    processes[0].exchange.send(4, {})
    await until(lambda: bool(processes[1].found))
    assert processes[1].found == [(4, {})]
    assert "a report of engine 3 cannot be read" in caplog.text
