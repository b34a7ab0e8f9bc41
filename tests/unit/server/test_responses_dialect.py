"""Responses that go on with earlier ones, and what is kept of them."""

import base64
from collections.abc import AsyncGenerator

import orjson
import pytest

from server.answer import Answer, PromptUsage
from server.answer_parts import ContentText, ReasoningText
from server.ask import Ask, Caller
from server.body_data_url import BodyDataUrl
from server.choice import ChoiceReader, Delta
from server.errors import InvalidRequest
from server.responses.dialect import ResponsesDialect
from server.responses.listing import list_items
from server.responses.store import ResponseStore

CALLER = Caller("tenant", "qwen")
LONG_URL = "data:image/png;base64," + base64.b64encode(bytes(6000)).decode()
IMAGE_INPUT = [{"role": "user", "content": [{"type": "input_image", "image_url": LONG_URL}]}]


def make_dialect(max_bytes: int = 1_000_000) -> ResponsesDialect:
    return ResponsesDialect(ResponseStore(max_bytes, 60.0))


def ask(dialect: ResponsesDialect, given="hi", caller: Caller = CALLER, **fields) -> Ask:
    return dialect.parse(orjson.dumps({"model": "qwen", "input": given, **fields}), caller)


def refuse(dialect: ResponsesDialect, given="hi", caller: Caller = CALLER, **fields):
    with pytest.raises(InvalidRequest) as caught:
        ask(dialect, given, caller, **fields)
    return caught.value


async def answer(dialect: ResponsesDialect, given="hi", text: str = "A cat.", **fields) -> dict:
    async def deltas() -> AsyncGenerator[Delta, None]:
        yield Delta(0, (ReasoningText("hm"), ContentText(text)), finish_reason="stop")

    answer_format = ask(dialect, given, **fields).format
    return await answer_format.collect(Answer(PromptUsage(1), [ChoiceReader(0)]), deltas())


def contents(asked: Ask) -> list:
    return [message.content for message in asked.request.messages]


async def test_request_goes_on_with_a_kept_response():
    dialect = make_dialect()
    first = await answer(dialect, "one", instructions="old")
    second = await answer(dialect, "two", "A dog.", previous_response_id=first["id"])
    asked = ask(dialect, "three", previous_response_id=second["id"], instructions="new")
    assert contents(asked) == ["new", "one", "A cat.", "two", "A dog.", "three"]
    assert asked.request.messages[2].reasoning_content == "hm"
    assert second["previous_response_id"] == first["id"]


async def test_results_of_calls_follow_the_kept_call():
    dialect = make_dialect()
    first = await answer(dialect)
    item = {"type": "function_call_output", "call_id": "call_1", "output": "42"}
    asked = ask(dialect, [item], previous_response_id=first["id"])
    assert [message.role for message in asked.request.messages] == ["user", "assistant", "tool"]


async def test_items_of_a_kept_response_can_be_referred_to():
    dialect = make_dialect()
    output = (await answer(dialect))["output"]
    references = [{"type": "item_reference", "id": item["id"]} for item in output]
    (message,) = ask(dialect, references).request.messages
    assert (message.reasoning_content, message.content) == ("hm", "A cat.")


async def test_response_is_not_kept_where_the_request_says_so():
    dialect = make_dialect()
    response = await answer(dialect, store=False)
    assert response["store"] is False
    error = refuse(dialect, previous_response_id=response["id"])
    assert (error.code, error.param) == ("previous_response_not_found", "previous_response_id")


async def test_store_that_is_off_is_told_of():
    dialect = make_dialect(0)
    response = await answer(dialect, store=True)
    assert response["store"] is False
    error = refuse(dialect, previous_response_id=response["id"])
    assert error.code == "previous_response_not_found"
    assert "responses.store_max_bytes" in error.message
    error = refuse(dialect, [{"type": "item_reference", "id": response["output"][0]["id"]}])
    assert (error.code, error.param) == ("item_not_found", "input[0]")
    assert "responses.store_max_bytes" in error.message


async def test_response_of_another_client_is_not_found():
    dialect = make_dialect()
    response = await answer(dialect)
    other = Caller("other", "qwen")
    assert refuse(dialect, caller=other, previous_response_id=response["id"])
    assert refuse(dialect, [{"id": response["output"][0]["id"]}], other)


def test_id_is_not_echoed():
    assert "x" * 10 not in refuse(make_dialect(), previous_response_id="x" * 1000).message


async def test_kept_image_does_not_keep_the_body():
    dialect = make_dialect()
    response = await answer(dialect, IMAGE_INPUT)
    asked = ask(dialect, "and now?", previous_response_id=response["id"])
    url = asked.request.messages[0].content[0].image_url.url
    assert isinstance(url, BodyDataUrl)
    assert len(url.payload.obj) == 8000
    assert dialect._store.num_bytes > 8000


def test_image_stays_in_the_body_where_nothing_is_kept():
    asked = ask(make_dialect(), IMAGE_INPUT, store=False)
    payload = asked.request.messages[0].content[0].image_url.url.payload
    assert len(payload.obj) > len(payload)


async def test_kept_conversation_is_listed_as_items():
    dialect = make_dialect()
    text = {"type": "input_text", "text": "see"}
    video = {"type": "input_video", "video_url": "https://example.com/a.mp4"}
    given = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [text, *IMAGE_INPUT[0]["content"], video]},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": [text]},
        {"type": "function_call_output", "call_id": "call_2", "output": "42"},
    ]
    response = await answer(dialect, given)
    messages = dialect._store.get("tenant", response["id"]).messages
    items = list_items(messages, response["id"])
    stem = response["id"].removeprefix("resp_")
    assert [item.pop("id").removesuffix(f"_{n}") for n, item in enumerate(items)] == [
        f"{prefix}_{stem}" for prefix in ("msg", "msg", "rs", "fc", "fco", "fco", "rs", "msg")
    ]
    assert all(item.pop("status") == "completed" for item in items)
    image = {"type": "input_image", "image_url": LONG_URL, "detail": "auto"}
    reasoning = {
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "hm"}],
    }
    written = {"type": "output_text", "text": "A cat.", "annotations": [], "logprobs": []}
    brief = {"type": "input_text", "text": "be brief"}
    assert items == [
        {"type": "message", "role": "system", "content": [brief]},
        {"type": "message", "role": "user", "content": [text, image, video]},
        reasoning,
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": [text]},
        {"type": "function_call_output", "call_id": "call_2", "output": "42"},
        reasoning,
        {"type": "message", "role": "assistant", "content": [written]},
    ]
