"""Sharing, remembering and queueing of checks; the worker is a fake one.

The real one is tested in tests/fault/test_hostile_grammars.py.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import pytest

from server.errors import InvalidRequest, Overloaded
from server.grammar import check as grammar_check
from server.grammar.check import GrammarChecker, Verdict, WorkerDied
from server.grammar.output_grammar import OutputGrammar

OK = Verdict(None, "")
REFUSED = Verdict("invalid_grammar", "the reason")


class FakeWorker:
    """Has a verdict for each tag; waits while `gate` is closed."""

    started: ClassVar[list["FakeWorker"]]
    verdicts: ClassVar[dict[str, Verdict | Exception]]
    gate: ClassVar[asyncio.Event]
    start_error: ClassVar[Exception | None]
    num_failing_starts: ClassVar[int]

    def __init__(self, options: tuple[Any, ...]) -> None:
        self.options = options
        self.judged: list[str] = []
        self.ended = False
        self.has_ended = False  # by itself

    @classmethod
    async def start(cls, *options: Any) -> "FakeWorker":
        if cls.start_error is not None:
            raise cls.start_error
        if cls.num_failing_starts:
            cls.num_failing_starts -= 1
            raise RuntimeError("killed")
        cls.started.append(cls(options))
        return cls.started[-1]

    async def judge(self, tag: str) -> Verdict:
        assert not self.ended
        self.judged.append(tag)
        await self.gate.wait()
        verdict = self.verdicts.get(tag, OK)
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    async def end(self) -> None:
        self.ended = True


@pytest.fixture(autouse=True)
def worker_class(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeWorker]]:
    FakeWorker.started, FakeWorker.verdicts, FakeWorker.start_error = [], {}, None
    FakeWorker.num_failing_starts = 0
    FakeWorker.gate = asyncio.Event()
    FakeWorker.gate.set()
    monkeypatch.setattr(grammar_check, "_Worker", FakeWorker)
    yield FakeWorker


@pytest.fixture
async def checker() -> AsyncIterator[GrammarChecker]:
    checker = GrammarChecker("model", "main", 896, timeout_s=5, max_bytes=10**9)
    yield checker
    FakeWorker.gate.set()
    await checker.close()


def grammar(tag: str, param: str = "response_format") -> OutputGrammar:
    return OutputGrammar(tag, param)


def judged() -> list[str]:
    return [tag for worker in FakeWorker.started for tag in worker.judged]


async def settle() -> None:
    """Let all tasks run until they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_the_worker_is_started_by_the_first_check(checker: GrammarChecker) -> None:
    assert FakeWorker.started == []
    await checker.check(grammar("a"))
    await checker.check(grammar("b"))
    (worker,) = FakeWorker.started
    assert worker.options == ("model", "main", 896, 5, 10**9)
    assert worker.judged == ["a", "b"]


async def test_verdicts_are_remembered(checker: GrammarChecker) -> None:
    FakeWorker.verdicts = {"bad": REFUSED}
    for _ in range(3):
        await checker.check(grammar("good"))
        with pytest.raises(InvalidRequest):
            await checker.check(grammar("bad"))
    assert judged() == ["good", "bad"]


async def test_a_refusal_names_the_field_of_each_request(checker: GrammarChecker) -> None:
    FakeWorker.verdicts = {"bad": REFUSED, "slow": Verdict("grammar_too_complex", "too slow")}
    for param in ("guided_regex", "structured_outputs.regex"):
        with pytest.raises(InvalidRequest) as caught:
            await checker.check(grammar("bad", param))
        assert caught.value.message == f"`{param}` is refused: the reason"
        assert (caught.value.code, caught.value.param) == ("invalid_grammar", param)
    with pytest.raises(InvalidRequest, match="`tools` is too complex: too slow"):
        await checker.check(grammar("slow", "tools"))


async def test_the_oldest_verdicts_are_forgotten(
    checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_check, "MAX_VERDICTS", 2)
    for tag in ("a", "b", "a", "c", "a", "b"):
        await checker.check(grammar(tag))
    assert judged() == ["a", "b", "c", "b"]


async def test_who_asks_for_the_same_shares_one_check(checker: GrammarChecker) -> None:
    FakeWorker.gate.clear()
    FakeWorker.verdicts = {"a": REFUSED}
    tasks = [asyncio.create_task(checker.check(grammar("a", f"p{n}"))) for n in range(3)]
    await settle()
    FakeWorker.gate.set()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [error.param for error in errors if isinstance(error, InvalidRequest)] == [
        "p0",
        "p1",
        "p2",
    ]
    assert judged() == ["a"]


async def test_one_grammar_is_checked_at_a_time(checker: GrammarChecker) -> None:
    FakeWorker.gate.clear()
    tasks = [asyncio.create_task(checker.check(grammar(tag))) for tag in "abc"]
    await settle()
    assert judged() == ["a"]
    FakeWorker.gate.set()
    await asyncio.gather(*tasks)
    assert judged() == ["a", "b", "c"]


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_a_caller_that_goes_away_leaves_the_check_to_others(
    checker: GrammarChecker, cancelled: int
) -> None:
    FakeWorker.gate.clear()
    tasks = [asyncio.create_task(checker.check(grammar("a"))) for _ in range(2)]
    await settle()
    tasks[cancelled].cancel()
    await settle()
    assert tasks[cancelled].cancelled()
    FakeWorker.gate.set()
    await tasks[1 - cancelled]
    assert judged() == ["a"]


async def test_a_check_that_has_begun_is_finished(checker: GrammarChecker) -> None:
    FakeWorker.gate.clear()
    task = asyncio.create_task(checker.check(grammar("a")))
    await settle()
    task.cancel()
    await settle()
    FakeWorker.gate.set()
    await checker.check(grammar("b"))
    await checker.check(grammar("a"))
    (worker,) = FakeWorker.started
    assert worker.judged == ["a", "b"]


async def test_nobody_waits_for_a_check_that_nobody_wants(checker: GrammarChecker) -> None:
    FakeWorker.gate.clear()
    running = asyncio.create_task(checker.check(grammar("a")))
    await settle()
    waiting = asyncio.create_task(checker.check(grammar("b")))
    await settle()
    waiting.cancel()
    await settle()
    FakeWorker.gate.set()
    await running
    await settle()
    assert judged() == ["a"]
    await checker.check(grammar("b"))
    assert judged() == ["a", "b"]


async def test_a_grammar_can_be_asked_for_again_as_its_check_is_given_up(
    checker: GrammarChecker,
) -> None:
    FakeWorker.gate.clear()
    running = asyncio.create_task(checker.check(grammar("a")))
    await settle()
    for _ in range(3):
        waiting = asyncio.create_task(checker.check(grammar("b")))
        await settle()
        waiting.cancel()
        await asyncio.sleep(0)
    again = asyncio.create_task(checker.check(grammar("b")))
    FakeWorker.gate.set()
    await asyncio.gather(running, again)
    assert judged() == ["a", "b"]


async def test_a_full_queue_refuses_at_once_and_takes_more_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grammar_check, "MAX_WAITING", 2)
    checker = GrammarChecker("model", "main", 896, timeout_s=5, max_bytes=10**9)
    FakeWorker.gate.clear()
    tasks = [asyncio.create_task(checker.check(grammar(tag), f"of {tag}")) for tag in "ab"]
    await settle()
    with pytest.raises(Overloaded):
        await checker.check(grammar("c"))
    shared = asyncio.create_task(checker.check(grammar("b"), "of b"))  # takes no further place
    tasks[1].cancel()
    shared.cancel()
    await settle()
    tasks.append(asyncio.create_task(checker.check(grammar("d"))))
    await settle()
    FakeWorker.gate.set()
    await asyncio.gather(tasks[0], tasks[2])
    await checker.check(grammar("c"))
    assert judged() == ["a", "d", "c"]
    await checker.close()


async def test_a_client_with_many_grammars_does_not_keep_others_waiting(
    checker: GrammarChecker,
) -> None:
    FakeWorker.gate.clear()
    flood = [asyncio.create_task(checker.check(grammar(f"f{n}"), "flood")) for n in range(100)]
    await settle()
    others = [asyncio.create_task(checker.check(grammar(name), name)) for name in ("b", "c", "f9")]
    await settle()
    FakeWorker.gate.set()
    await asyncio.gather(*others)
    assert judged()[:5] == ["f0", "f1", "b", "c", "f9"]
    outcomes = await asyncio.gather(*flood, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None)] * 56 + [Overloaded] * 44
    assert judged().count("f9") == 1


async def test_a_worker_that_dies_is_replaced_and_its_grammar_not_remembered(
    checker: GrammarChecker,
) -> None:
    FakeWorker.verdicts = {"a": WorkerDied()}
    with pytest.raises(InvalidRequest) as caught:
        await checker.check(grammar("a"))
    assert caught.value.code == "grammar_too_complex"
    assert FakeWorker.started[0].ended
    await checker.check(grammar("b"))
    FakeWorker.verdicts = {}
    await checker.check(grammar("a"))
    assert [worker.judged for worker in FakeWorker.started] == [["a"], ["b", "a"]]


async def test_a_worker_that_was_killed_between_two_checks_costs_no_request(
    checker: GrammarChecker,
) -> None:
    await checker.check(grammar("first"))
    FakeWorker.started[0].has_ended = True
    await checker.check(grammar("second"))
    assert [worker.judged for worker in FakeWorker.started] == [["first"], ["second"]]
    assert FakeWorker.started[0].ended  # reaped


async def test_a_worker_that_was_killed_while_it_started_costs_no_request(
    checker: GrammarChecker,
) -> None:
    FakeWorker.num_failing_starts = 1
    await checker.check(grammar("first"))
    assert judged() == ["first"]


async def test_a_worker_that_does_not_start_is_tried_again(checker: GrammarChecker) -> None:
    FakeWorker.start_error = RuntimeError("no memory")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no memory"):
            await checker.check(grammar("a"))
    FakeWorker.start_error = None
    await checker.check(grammar("a"))


async def test_closing_ends_the_worker_and_what_waits(checker: GrammarChecker) -> None:
    FakeWorker.gate.clear()
    tasks = [asyncio.create_task(checker.check(grammar(tag))) for tag in "ab"]
    await settle()
    await checker.close()
    assert FakeWorker.started[0].ended
    await asyncio.wait(tasks, timeout=10)
    assert all(task.cancelled() for task in tasks)
    assert judged() == ["a"]


async def test_closing_an_unused_checker_is_nothing(checker: GrammarChecker) -> None:
    await checker.close()
    assert FakeWorker.started == []
