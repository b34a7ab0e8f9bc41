import asyncio
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from multimodal.shared_jobs import JobCancelled, SharedJob, SharedJobs

WAIT_S = 10
NUM_BYTES = 30


class Refused(Exception):
    pass


class Account:
    """What jobs hold, and every sum that was given back."""

    def __init__(self) -> None:
        self.max_bytes = 100
        self.num_taken = 0
        self.given_back: list[int] = []

    def take(self, num_bytes: int) -> None:
        if self.num_taken + num_bytes > self.max_bytes:
            raise Refused
        self.num_taken += num_bytes

    def give_back(self, num_bytes: int) -> None:
        self.num_taken -= num_bytes
        self.given_back.append(num_bytes)


class Work:
    """Runs until it is released or cancelled; `num_runs` counts its starts."""

    def __init__(self, result: Any = "done", *, is_released: bool = True) -> None:
        self.num_runs = 0
        self.has_started, self.has_ended = threading.Event(), threading.Event()
        self.was_cancelled = False
        self._result = result
        self._released = threading.Event()
        if is_released:
            self.release()

    def release(self) -> None:
        self._released.set()

    def __call__(self, job: SharedJob) -> Any:
        self.num_runs += 1
        self.has_started.set()
        try:
            for _ in range(100 * WAIT_S):
                job.check_cancelled()
                if self._released.wait(0.01):
                    break
            if isinstance(self._result, Exception):
                raise self._result
            return self._result
        except JobCancelled:
            self.was_cancelled = True
            raise
        finally:
            self.has_ended.set()


@pytest.fixture
def account() -> Account:
    return Account()


@pytest.fixture
def jobs(account: Account) -> SharedJobs:
    return SharedJobs(account.take, account.give_back)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """One thread, so that a second job has to wait."""
    with ThreadPoolExecutor(1) as threads:
        yield threads


async def has_started(work: Work) -> bool:
    return await asyncio.to_thread(work.has_started.wait, WAIT_S)


async def test_work_runs_once_for_all_who_join(
    jobs: SharedJobs, threads: ThreadPoolExecutor
) -> None:
    work, unused = Work(object()), Work()
    held = [jobs.join("key", NUM_BYTES, threads, each) for each in (work, unused, unused)]
    results = await asyncio.gather(*(job.result() for job in held))
    assert results[0] is results[1] is results[2]
    assert (work.num_runs, unused.num_runs) == (1, 0)


async def test_who_joins_when_it_is_done_gets_the_same_result(
    jobs: SharedJobs, threads: ThreadPoolExecutor
) -> None:
    work = Work(object())
    first = jobs.join("key", NUM_BYTES, threads, work)
    result = await first.result()
    assert await jobs.join("key", NUM_BYTES, threads, work).result() is result
    assert work.num_runs == 1


async def test_other_keys_are_other_work(jobs: SharedJobs, threads: ThreadPoolExecutor) -> None:
    first = jobs.join("one", NUM_BYTES, threads, Work(1))
    second = jobs.join("two", NUM_BYTES, threads, Work(2))
    assert [await first.result(), await second.result()] == [1, 2]


async def test_what_nobody_holds_any_more_runs_again(
    jobs: SharedJobs, threads: ThreadPoolExecutor
) -> None:
    work = Work()
    for _ in range(2):
        job = jobs.join("key", NUM_BYTES, threads, work)
        await job.result()
        await jobs.release([job])
    assert work.num_runs == 2


async def test_who_leaves_does_not_disturb_the_others(
    jobs: SharedJobs, threads: ThreadPoolExecutor, account: Account
) -> None:
    work = Work(is_released=False)
    leaving, staying = (jobs.join("key", NUM_BYTES, threads, work) for _ in range(2))
    await jobs.release([leaving])
    assert not staying.cancelled.is_set()
    assert account.num_taken == NUM_BYTES
    work.release()
    assert await staying.result() == "done"


async def test_the_last_to_leave_ends_the_work_and_waits_for_it(
    jobs: SharedJobs, threads: ThreadPoolExecutor
) -> None:
    work = Work(is_released=False)
    first, last = (jobs.join("key", NUM_BYTES, threads, work) for _ in range(2))
    assert await has_started(work)
    await jobs.release([first])
    await jobs.release([last])
    assert last.cancelled.is_set()
    assert work.was_cancelled
    assert work.has_ended.is_set()


async def test_who_holds_a_job_twice_ends_it_by_releasing_both(
    jobs: SharedJobs, threads: ThreadPoolExecutor, account: Account
) -> None:
    held = [jobs.join("key", NUM_BYTES, threads, Work()) for _ in range(2)]
    await jobs.release(held)
    assert account.given_back == [NUM_BYTES]


async def test_a_cancelled_wait_does_not_end_the_work(
    jobs: SharedJobs, threads: ThreadPoolExecutor
) -> None:
    work = Work(is_released=False)
    job = jobs.join("key", NUM_BYTES, threads, work)
    waiting = asyncio.create_task(job.result())
    assert await has_started(work)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    work.release()
    assert await job.result() == "done"


async def test_work_that_waits_for_a_thread_never_runs_when_nobody_holds_it(
    jobs: SharedJobs, threads: ThreadPoolExecutor
) -> None:
    running, queued = Work(is_released=False), Work()
    kept = jobs.join("kept", NUM_BYTES, threads, running)
    left = jobs.join("left", NUM_BYTES, threads, queued)
    assert await has_started(running)
    leaving = asyncio.create_task(jobs.release([left]))
    while not left.cancelled.is_set():
        await asyncio.sleep(0)
    await leaving  # although the only thread is busy
    running.release()
    assert await kept.result() == "done"
    assert queued.num_runs == 0
    with pytest.raises(asyncio.CancelledError):
        await left.result()


async def test_all_work_is_cancelled_before_any_is_waited_for(
    jobs: SharedJobs, threads: ThreadPoolExecutor
) -> None:
    first, second = Work(is_released=False), Work()
    held = [jobs.join(work, NUM_BYTES, threads, work) for work in (first, second)]
    assert await has_started(first)
    await jobs.release(held)
    assert second.num_runs == 0


async def test_who_joins_while_it_is_ending_starts_it_anew(
    jobs: SharedJobs, threads: ThreadPoolExecutor, account: Account
) -> None:
    gate = threading.Event()

    def stubborn(job: SharedJob) -> None:
        assert gate.wait(WAIT_S)

    ending = jobs.join("key", NUM_BYTES, threads, stubborn)
    leaving = asyncio.create_task(jobs.release([ending]))
    while not ending.cancelled.is_set():
        await asyncio.sleep(0)
    work = Work()
    anew = jobs.join("key", NUM_BYTES, threads, work)
    assert not anew.cancelled.is_set()
    assert account.num_taken == 2 * NUM_BYTES
    gate.set()
    await leaving
    assert await anew.result() == "done"
    assert jobs.join("key", NUM_BYTES, threads, work) is anew


async def test_an_error_reaches_all_who_wait(jobs: SharedJobs, threads: ThreadPoolExecutor) -> None:
    error = ValueError("wrong")
    held = [jobs.join("key", NUM_BYTES, threads, Work(error)) for _ in range(3)]
    results = await asyncio.gather(*(job.result() for job in held), return_exceptions=True)
    assert results == [error, error, error]


@pytest.mark.parametrize("result", ["done", ValueError("wrong")])
async def test_bytes_are_given_back_once(
    jobs: SharedJobs, threads: ThreadPoolExecutor, account: Account, result: Any
) -> None:
    held = [jobs.join("key", NUM_BYTES, threads, Work(result)) for _ in range(3)]
    assert account.num_taken == NUM_BYTES
    await asyncio.gather(*(job.result() for job in held), return_exceptions=True)
    for job in held:
        assert account.given_back == []
        await jobs.release([job])
    assert account.given_back == [NUM_BYTES]


async def test_bytes_are_held_until_the_work_has_stopped(
    jobs: SharedJobs, threads: ThreadPoolExecutor, account: Account
) -> None:
    taken_at_the_end: list[int] = []

    def work(job: SharedJob) -> None:
        assert job.cancelled.wait(WAIT_S)
        taken_at_the_end.append(account.num_taken)

    await jobs.release([jobs.join("key", NUM_BYTES, threads, work)])
    assert taken_at_the_end == [NUM_BYTES]
    assert account.num_taken == 0


async def test_a_refused_job_is_not_started_and_gives_nothing_back(
    jobs: SharedJobs, threads: ThreadPoolExecutor, account: Account
) -> None:
    work = Work()
    kept = jobs.join("kept", 80, threads, Work())
    with pytest.raises(Refused):
        jobs.join("key", NUM_BYTES, threads, work)
    last = jobs.join("last", 20, threads, Work())
    await last.result()
    await jobs.release([kept, last])
    assert account.given_back == [80, 20]
    assert work.num_runs == 0


async def test_a_refused_job_can_be_joined_later(
    jobs: SharedJobs, threads: ThreadPoolExecutor, account: Account
) -> None:
    account.max_bytes = NUM_BYTES - 1
    with pytest.raises(Refused):
        jobs.join("key", NUM_BYTES, threads, Work())
    account.max_bytes = NUM_BYTES
    job = jobs.join("key", NUM_BYTES, threads, Work())
    assert account.num_taken == NUM_BYTES
    assert await job.result() == "done"
    await jobs.release([job])
    assert account.given_back == [NUM_BYTES]


async def test_joining_what_is_held_takes_nothing(
    jobs: SharedJobs, threads: ThreadPoolExecutor, account: Account
) -> None:
    account.max_bytes = NUM_BYTES
    for _ in range(3):
        jobs.join("key", NUM_BYTES, threads, Work())
    assert account.num_taken == NUM_BYTES


async def test_a_failure_that_nobody_waited_for_is_not_logged(
    jobs: SharedJobs, threads: ThreadPoolExecutor
) -> None:
    logged: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: logged.append(context))
    job = jobs.join("key", NUM_BYTES, threads, Work(ValueError("wrong")))
    await jobs.release([job])
    del job
    gc.collect()
    assert logged == []


async def test_a_failure_after_the_wait_was_cancelled_is_not_logged(
    jobs: SharedJobs, threads: ThreadPoolExecutor
) -> None:
    logged: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: logged.append(context))
    work = Work(ValueError("wrong"), is_released=False)
    job = jobs.join("key", NUM_BYTES, threads, work)
    waiting = asyncio.create_task(job.result())
    assert await has_started(work)
    waiting.cancel()
    await asyncio.wait([waiting])
    work.release()
    await jobs.release([job])
    del job, waiting
    gc.collect()
    assert logged == []
