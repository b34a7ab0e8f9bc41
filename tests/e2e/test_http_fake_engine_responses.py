"""The Responses API over ASGI, without a model: as it is, and as the official client has it."""

from typing import Any

import httpx
import httpx2
import openai
import orjson
import pytest
from pydantic import BaseModel

from server.engine import TokenLogprob
from server.settings import ResponsesSettings, Settings
from tests.fake_backend import CORRUPT_URL, IMAGE_URL, FakeRenderer, Server, assert_error
from tests.fake_engine import make_chunk

KEPT = Settings(responses=ResponsesSettings(store_max_bytes=1_000_000))
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
IMAGE = {"type": "input_image", "image_url": IMAGE_URL, "detail": "auto"}


async def respond(server: Server, given: Any = "hi", **fields: Any) -> httpx.Response:
    headers = fields.pop("headers", {})
    body = {"model": "qwen", "input": given, **fields}
    return await server.request("POST", "/v1/responses", json=body, headers=headers)


async def stream(server: Server, given: Any = "hi", **fields: Any) -> list[dict[str, Any]]:
    response = await respond(server, given, stream=True, **fields)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *texts, rest = response.text.split("\n\n")
    assert rest == ""
    events = [orjson.loads(text.partition("\ndata: ")[2]) for text in texts]
    assert [text.split("\n")[0] for text in texts] == [f"event: {e['type']}" for e in events]
    return events


def connect(server: Server, api_key: str = "none") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url="http://server/v1",
        api_key=api_key,
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=httpx2.ASGITransport(server.app)),
    )


def messages_of(server: Server) -> list[dict[str, Any]]:
    """What the last request's template got."""
    return server.renderer.calls[-1][0]


async def test_response_has_text_and_usage():
    user = {"role": "user", "content": [{"type": "input_text", "text": "one two"}, IMAGE]}
    response = (await respond(Server(), [user])).json()
    assert response["status"] == "completed"
    assert response["output"][0]["content"][0]["text"] == "A cat."
    assert response["usage"] | {"input_tokens_details": None} == {
        "input_tokens": 6,
        "input_tokens_details": None,
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 8,
    }
    assert response["usage"]["input_tokens_details"]["image_tokens"] == 4


async def test_request_gets_the_id_of_its_response():
    server = Server()
    response = (await respond(server)).json()
    assert server.engine.requests[0].request_id.startswith(response["id"])


async def test_answer_that_is_cut_is_incomplete():
    server = Server(make_chunk("A", finish="length"))
    response = (await respond(server, max_output_tokens=1)).json()
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert server.engine.requests[0].sampling.max_tokens == 1


async def test_unknown_field_is_named_in_a_header():
    response = await respond(Server(), temprature=1)
    assert response.status_code == 200
    assert "temprature" in response.headers["warning"]


@pytest.mark.parametrize("streams", [False, True])
async def test_error_before_the_first_event_has_its_own_status(streams):
    image = {**IMAGE, "image_url": CORRUPT_URL}
    given = [{"role": "system", "content": "hi"}, {"role": "user", "content": [IMAGE, image]}]
    response = await respond(Server(), given, instructions="Be brief.", stream=streams)
    assert_error(response, 422, "image_corrupt", "input[1].content[1].image_url")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": {"type": "function", "name": "g"}, "tools": [TOOL]}, "tool_choice.name"),
        ({"tool_choice": "required"}, "tools"),
        ({"given": "word " * 200}, "input"),
        ({"reasoning": {"effort": "low"}}, "reasoning.effort"),
    ],
)
async def test_fault_that_is_found_later_names_its_field(fields, param):
    response = await respond(Server(), **fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert "messages" not in error["message"]


async def test_fault_names_its_field():
    response = await respond(Server(), max_output_tokens=0)
    assert_error(response, 400, "invalid_value", "max_output_tokens")


async def test_other_model_is_not_found():
    response = await Server().request(
        "POST", "/v1/responses", json={"model": "other", "input": "hi"}
    )
    assert_error(response, 404, "model_not_found", "model")


async def test_engine_failure_in_mid_stream_ends_the_response_as_failed():
    events = await stream(Server(make_chunk("A "), make_chunk("", finish="error")))
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert events[-2]["code"] == "engine_error"
    assert events[-1]["response"]["status"] == "failed"
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"


async def test_tools_reach_the_template():
    server = Server()
    await respond(server, tools=[TOOL])
    assert server.renderer.tools[0]["function"]["name"] == "f"


async def test_whole_and_streamed_response_agree():
    script = [
        make_chunk("I see</think>"),
        make_chunk("Look. " + CALL),
        make_chunk("", finish="stop"),
    ]
    server = Server(*script, renderer=FakeRenderer("thinking"))
    whole = (await respond(server, tools=[TOOL])).json()
    streamed = (await stream(server, tools=[TOOL]))[-1]["response"]
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message", "function_call"]
    for response in (whole, streamed):
        response |= {"id": "", "created_at": 0, "completed_at": 0}
        for item in response["output"]:
            item |= {"id": "", "call_id": ""}
    assert streamed == whole


async def test_client_reads_a_response():
    response = await connect(Server()).responses.create(
        model="qwen", input=[{"role": "user", "content": [IMAGE]}]
    )
    assert response.output_text == "A cat."
    assert response.usage.total_tokens == 6


async def test_client_parses_a_type():
    class Animal(BaseModel):
        name: str

    server = Server(make_chunk('{"name": "cat"}', finish="stop"))
    response = await connect(server).responses.parse(model="qwen", input="hi", text_format=Animal)
    assert response.output_parsed == Animal(name="cat")
    assert len(server.grammars.checked) == 1


async def test_client_helper_accumulates_a_stream():
    script = [make_chunk("I see</think>"), make_chunk("A "), make_chunk("cat.", finish="stop")]
    client = connect(Server(*script, renderer=FakeRenderer("thinking")))
    async with client.responses.stream(model="qwen", input="hi") as events:
        texts = [e.snapshot async for e in events if e.type == "response.output_text.delta"]
        response = await events.get_final_response()
    assert texts == ["A ", "A cat."]
    assert response.output_text == "A cat."
    assert response.output[0].content[0].text == "I see"


async def test_client_accumulates_a_streamed_call():
    server = Server(make_chunk(CALL[:50]), make_chunk(CALL[50:], finish="stop"))
    client = connect(server)
    async with client.responses.stream(model="qwen", input="hi", tools=[TOOL]) as events:
        snapshots = [
            e.snapshot async for e in events if e.type == "response.function_call_arguments.delta"
        ]
        (call,) = (await events.get_final_response()).output
    assert snapshots[-1] == call.arguments == '{"x": 1}'


async def test_client_sends_an_answer_back():
    server = Server(
        make_chunk("I see</think>" + CALL, finish="stop"), renderer=FakeRenderer("hybrid")
    )
    client = connect(server)
    first = await client.responses.create(
        model="qwen", input="hi", tools=[TOOL], extra_body={"enable_thinking": True}
    )
    call = next(item for item in first.output if item.type == "function_call")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "42"}
    history = [{"role": "user", "content": "hi"}, *first.output, result]
    raw = await client.responses.with_raw_response.create(model="qwen", input=history, tools=[TOOL])
    assert "warning" not in raw.headers
    _, answer, tool = messages_of(server)
    assert answer["reasoning_content"] == "I see"
    assert answer["tool_calls"][0]["function"]["arguments"] == {"x": 1}
    assert tool == {"role": "tool", "content": "42", "tool_call_id": call.call_id}


async def test_client_reads_logprobs():
    chunk = make_chunk("A", logprobs=(TokenLogprob(7, b"A", -0.5),), finish="stop")
    response = await connect(Server(chunk)).responses.create(
        model="qwen", input="hi", include=["message.output_text.logprobs"]
    )
    assert response.output[0].content[0].logprobs[0].logprob == -0.5


async def test_client_goes_on_with_a_kept_response():
    server = Server(settings=KEPT)
    client = connect(server)
    first = await client.responses.create(model="qwen", input="one", instructions="old")
    async with client.responses.stream(
        model="qwen", input="two", previous_response_id=first.id
    ) as events:
        second = await events.get_final_response()
    await client.responses.create(model="qwen", input="three", previous_response_id=second.id)
    contents = [message["content"] for message in messages_of(server)]
    assert contents == ["one", "A cat.", "two", "A cat.", "three"]


async def test_client_retrieves_lists_and_deletes_a_kept_response():
    client = connect(Server(settings=KEPT))
    first = await client.responses.create(model="qwen", input="one")
    second = await client.responses.create(
        model="qwen", input=[{"role": "user", "content": [IMAGE]}], previous_response_id=first.id
    )
    assert (await client.responses.retrieve(second.id)).to_dict() == second.to_dict()
    pages = client.responses.input_items.list(second.id, limit=1)
    items = [item async for item in pages]
    assert [item.role for item in items] == ["user", "assistant", "user"]
    assert items[0].content[0].image_url == IMAGE_URL
    oldest = await client.responses.input_items.list(second.id, order="asc", limit=2)
    assert oldest.data == items[:0:-1]
    await client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(second.id)


async def test_kept_response_belongs_to_its_key():
    server = Server(settings=KEPT)
    mine, theirs = connect(server, "mine"), connect(server, "theirs")
    response = await mine.responses.create(model="qwen", input="one")
    for attempt in (
        theirs.responses.retrieve(response.id),
        theirs.responses.input_items.list(response.id),
        theirs.responses.delete(response.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await attempt
    with pytest.raises(openai.BadRequestError):
        await theirs.responses.create(model="qwen", input="two", previous_response_id=response.id)
    assert (await mine.responses.retrieve(response.id)).id == response.id


@pytest.mark.parametrize("settings", [KEPT, Settings()])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_unknown_response_is_not_found(settings, method):
    response = await Server(settings=settings).request(method, "/v1/responses/resp_1")
    assert_error(response, 404, "response_not_found", "response_id")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("/input_items?limit=0", "limit"),
        ("/input_items?limit=101", "limit"),
        ("/input_items?order=up", "order"),
        ("/input_items?after=msg_1", "after"),
    ],
)
async def test_fault_in_a_query_is_named(query, param):
    server = Server(settings=KEPT)
    response_id = (await respond(server)).json()["id"]
    response = await server.request("GET", f"/v1/responses/{response_id}{query}")
    assert_error(response, 400, "invalid_value", param)


async def test_kept_response_is_not_streamed_again():
    server = Server(settings=KEPT)
    response_id = (await respond(server)).json()["id"]
    response = await server.request("GET", f"/v1/responses/{response_id}?stream=true")
    assert_error(response, 400, "unsupported_parameter", "stream")


async def test_a_number_that_is_too_large_for_us_costs_nothing_but_the_keeping():
    call = '<tool_call>\n{"name": "look", "arguments": {"a": 1e999}}\n</tool_call>'
    tools = [{"type": "function", "name": "look", "parameters": {"type": "object"}}]
    server = Server(make_chunk(call, finish="stop"))
    body = {"model": "qwen", "input": "hi", "tools": tools}
    response = await server.request("POST", "/v1/responses", json=body)
    assert response.status_code == 200, response.text
    assert response.json()["store"] is False
    assert response.json()["output"][0]["arguments"] == '{"a": 1e999}'
