"""Both sides of the stream benchmark give the client what the engine said, chunk by chunk."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from transformers import AutoTokenizer

from benchmarks.floor_stream import write_stream
from benchmarks.our_stream import make_app
from benchmarks.side_process import SideProcess, side_process
from benchmarks.stream import StreamRow, StreamTimes, print_report
from benchmarks.stream_engine import StepEngine
from benchmarks.stream_side import App, measure
from benchmarks.stream_work import NUM_UNTIMED, VARIANTS, Message, Variant, Work, read_message

NUM_OUTPUTS = 24
NUM_OTHER_BODIES = 3  # the role, the end of the choice, the end of the stream
EVENT = b'data: {"choices": [{"delta": {"content": "A cat."}}]}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.fixture
def engine(hybrid_checkpoint: Path) -> StepEngine:
    return StepEngine(AutoTokenizer.from_pretrained(hybrid_checkpoint))


@pytest.fixture
def ours(hybrid_checkpoint: Path, engine: StepEngine) -> App:
    return make_app(str(hybrid_checkpoint), engine, TemporaryDirectory())


@pytest.fixture(scope="module")
def stock(hybrid_checkpoint: Path) -> Iterator[SideProcess]:
    """vLLM's own application, of this environment.

    With the plugin: vLLM's own model needs torchvision even for being looked at.
    """
    python = Path(sys.executable)
    with side_process(python, "benchmarks.stock_stream", str(hybrid_checkpoint)) as side:
        yield side


@pytest.mark.parametrize("variant", VARIANTS)
async def test_our_side_sends_an_event_for_each_output(
    ours: App, engine: StepEngine, variant: Variant
) -> None:
    run = await measure(ours, engine, Work(variant, num_streams=2, num_outputs=NUM_OUTPUTS))
    # line breaks around a tag, the tag itself, what comes before a function's name
    num_silent = {"thinking": 3, "tools": 13}.get(variant, 0)
    num_events = NUM_UNTIMED + NUM_OUTPUTS - num_silent + (variant == "usage")
    assert run.num_bodies == 2 * (num_events + NUM_OTHER_BODIES)


@pytest.mark.parametrize("variant", VARIANTS)
def test_stock_side_sends_the_same_message(stock: SideProcess, variant: Variant) -> None:
    run = stock.ask(asdict(Work(variant, num_streams=2, num_outputs=NUM_OUTPUTS)))
    assert run["num_bodies"] > NUM_OUTPUTS


@pytest.mark.parametrize("variant", ["content", "logprobs", "usage", "merged"])
async def test_floor_sends_the_same_message(engine: StepEngine, variant: Variant) -> None:
    run = await measure(
        partial(write_stream, engine, variant), engine, Work(variant, 1, NUM_OUTPUTS)
    )
    assert run.num_bodies == NUM_UNTIMED + NUM_OUTPUTS + 2


@pytest.mark.parametrize("lost", [b" fishing", b"data: [DONE]\n\n"])
async def test_a_stream_that_lacks_something_is_an_error(
    ours: App, engine: StepEngine, lost: bytes
) -> None:
    async def lose(scope: Any, receive: Any, send: Any) -> None:
        async def send_less(message: dict[str, Any]) -> None:
            if "body" in message:
                message["body"] = message["body"].replace(lost, b"")
            await send(message)

        await ours(scope, receive, send_less)

    with pytest.raises(RuntimeError):
        await measure(lose, engine, Work("content", 1, NUM_OUTPUTS))


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_outputs_of_a_variant_have_as_many_tokens(variant: Variant) -> None:
    outputs = Work(variant, num_streams=1, num_outputs=NUM_OUTPUTS).outputs()
    assert len(outputs) == NUM_UNTIMED + NUM_OUTPUTS
    assert {len(tokens) for tokens in outputs} == {8 if variant == "merged" else 1}


def test_half_of_the_tokens_are_reasoning() -> None:
    work = Work("thinking", num_streams=1, num_outputs=512)
    expected = work.expected()
    assert 0.9 < len(expected.reasoning) / len(expected.content) < 1.1


def test_messages_may_differ_in_whitespace_at_the_ends_and_in_the_form_of_json() -> None:
    message = Message("hm\n", "a cat", '{"a": 1}')
    assert message.is_like(Message("hm", "\n\na cat", '{"a":1}'))
    assert not message.is_like(Message("hm", "acat", '{"a": 1}'))
    assert not message.is_like(Message("hm", "a cat", '{"a": 2}'))


def test_a_message_is_read_from_its_events() -> None:
    assert read_message([EVENT[:9], EVENT[9:], DONE]) == Message(content="A cat.")


def test_an_answer_without_its_last_event_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="does not end"):
        read_message([EVENT])


def test_less_time_is_a_higher_ratio_and_the_aim_is_about_the_lowest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    times = [StreamTimes(cpu, cpu + 1) for cpu in (4.0, 20.0, 1.0)]
    slower = [StreamTimes(cpu, cpu + 1) for cpu in (5.0, 20.0, 1.0)]
    print_report([StreamRow(Work("tools", 1, 9), *times), StreamRow(Work("tools", 8, 9), *slower)])
    table, *_, document = capsys.readouterr().out.splitlines()
    assert table.startswith("| | ours | stock | ratio |")
    result = json.loads(document)
    assert [row["ratio"] for row in result["rows"]] == [5.0, 4.0]
    assert [row["name"] for row in result["rows"]] == ["tools, 1", "tools, 8"]
    assert [aim["measured"] for aim in result["aims"]] == [4.0]
