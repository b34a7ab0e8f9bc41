"""The official Python client: responses."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from asked import (
    ADD,
    ASK_WEATHER,
    CITY_SCHEMA,
    NUMBER,
    PICTURE_URL,
    READ_NUMBER,
    SUM,
    TOOL_NAME,
    WEATHER_ANSWER,
    WEATHER_TEXT,
    Reading,
    user,
)
from conftest import Server

TOOL: Any = {
    "type": "function",
    "name": TOOL_NAME,
    "parameters": CITY_SCHEMA,
    "strict": True,
}
PICTURE = [
    {
        "role": "user",
        "content": [
            {"type": "input_image", "image_url": PICTURE_URL, "detail": "auto"},
            {"type": "input_text", "text": READ_NUMBER},
        ],
    }
]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.v1, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def respond(client: openai.OpenAI, server: Server) -> Callable[..., Any]:
    """A response: greedy, short, without thinking unless it is asked for."""

    def respond(question: Any, **options: Any) -> Any:
        defaults = {"temperature": 0, "max_output_tokens": 64, "reasoning": {"effort": "none"}}
        return client.responses.create(
            model=server.model, input=question, **{"store": False, **defaults, **options}
        )

    return respond


@pytest.mark.parametrize("question, answer", [(PICTURE, NUMBER), (ADD, SUM)])
def test_response_whole_and_streamed_agree(
    respond: Callable[..., Any], question: Any, answer: str
) -> None:
    whole = respond(question)
    assert (whole.output_text, whole.status) == (answer, "completed")
    events = list(respond(question, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == answer
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == answer
    assert events[-1].response.usage.total_tokens == whole.usage.total_tokens


def test_response_shows_its_reasoning(respond: Callable[..., Any]) -> None:
    response = respond(PICTURE, reasoning={"effort": "medium"})
    thought, message = response.output
    assert (thought.type, message.type) == ("reasoning", "message")
    assert thought.content[0].text
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    kinds = [event.type for event in respond(ADD, reasoning={"effort": "medium"}, stream=True)]
    assert "response.reasoning_text.delta" in kinds


@pytest.mark.parametrize("effort", ["none", "medium"])
def test_response_tool_call_goes_round(respond: Callable[..., Any], effort: str) -> None:
    options: Any = {"tools": [TOOL], "reasoning": {"effort": effort}}
    response = respond(ASK_WEATHER, tool_choice="required", **options)
    (call,) = (item for item in response.output if item.type == "function_call")
    assert json.loads(call.arguments) == {"city": "Paris"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": WEATHER_TEXT}
    history = [*user(ASK_WEATHER), *response.output, result]
    assert respond(history, **options).output_text == WEATHER_ANSWER


def test_response_stream_helper_accumulates(client: openai.OpenAI, server: Server) -> None:
    with client.responses.stream(
        model=server.model,
        input=ASK_WEATHER,
        tools=[TOOL],
        tool_choice={"type": "function", "name": TOOL_NAME},
        max_output_tokens=64,
        reasoning={"effort": "none"},
        store=False,
    ) as stream:
        for _ in stream:
            pass
        (call,) = stream.get_final_response().output
    assert call.type == "function_call" and json.loads(call.arguments)["city"]


def test_responses_parse_fills_a_type(client: openai.OpenAI, server: Server) -> None:
    response = client.responses.parse(
        model=server.model,
        input=PICTURE,
        text_format=Reading,
        max_output_tokens=64,
        reasoning={"effort": "none"},
        store=False,
    )
    assert isinstance(response.output_parsed, Reading)


def test_response_cut_short_is_incomplete(respond: Callable[..., Any]) -> None:
    response = respond("Name three colors.", max_output_tokens=1)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"


def test_stored_response_goes_on_and_is_deleted(
    client: openai.OpenAI, respond: Callable[..., Any]
) -> None:
    first = respond(ADD, store=True)
    assert client.responses.retrieve(first.id).output_text == SUM
    second = respond("What is 2 + 2?", previous_response_id=first.id, store=True)
    assert second.previous_response_id == first.id
    items = client.responses.input_items.list(second.id)
    assert items.data
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


FAULTS = [
    ({"model": "another"}, openai.NotFoundError, "model"),
    ({"temperature": 9}, openai.BadRequestError, "temperature"),
    ({"previous_response_id": "resp_0"}, openai.BadRequestError, "previous_response_id"),
]


@pytest.mark.parametrize("fields, error_type, param", FAULTS, ids=lambda v: str(v)[:24])
def test_response_fault_names_its_field(
    client: openai.OpenAI,
    server: Server,
    fields: Any,
    error_type: type[openai.APIStatusError],
    param: str,
) -> None:
    request = {"model": server.model, "input": ADD, **fields}
    with pytest.raises(error_type) as caught:
        client.responses.create(**request)
    assert caught.value.param == param
