"""The Messages API through Anthropic's own Python client."""

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest
from asked import (
    ADD,
    ASK_WEATHER,
    CITY_SCHEMA,
    NUMBER,
    PICTURE_BASE64,
    READ_NUMBER,
    SUM,
    TOOL_NAME,
    WEATHER_ANSWER,
    WEATHER_TEXT,
    Reading,
    user,
)
from conftest import Server

TOOL: Any = {"name": TOOL_NAME, "description": "The weather.", "input_schema": CITY_SCHEMA}
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}
DIRECT: Any = {"type": "disabled"}
SOURCE = {"type": "base64", "media_type": "image/png", "data": PICTURE_BASE64}
PICTURE = user([{"type": "image", "source": SOURCE}, {"type": "text", "text": READ_NUMBER}])


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def request_(server: Server) -> Callable[..., Any]:
    """The fields of a request: greedy, short, without thinking unless it is asked for."""

    def request(messages: Any, **options: Any) -> Any:
        # More tokens than `budget_tokens`, as the API asks for; the client knows no temperature.
        greedy = {"temperature": 0}
        defaults = {"max_tokens": 1088, "thinking": DIRECT, "extra_body": greedy}
        return {"model": server.model, "messages": messages, **defaults, **options}

    return request


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


@pytest.mark.parametrize("messages, answer", [(PICTURE, NUMBER), (user(ADD), SUM)])
def test_whole_and_streamed_agree(
    client: anthropic.Anthropic, request_: Callable[..., Any], messages: Any, answer: str
) -> None:
    whole = client.messages.create(**request_(messages))
    assert (text_of(whole), whole.stop_reason) == (answer, "end_turn")
    with client.messages.stream(**request_(messages)) as stream:
        assert "".join(stream.text_stream) == answer
        streamed = stream.get_final_message()
    assert (text_of(streamed), streamed.stop_reason) == (answer, "end_turn")
    assert streamed.usage.output_tokens == whole.usage.output_tokens > 0


def test_thinking_is_a_block_that_may_come_back(
    client: anthropic.Anthropic, request_: Callable[..., Any]
) -> None:
    whole = client.messages.create(**request_(PICTURE, thinking=THINKING))
    assert [block.type for block in whole.content] == ["thinking", "text"]
    assert whole.content[0].thinking and isinstance(whole.content[0].signature, str)
    history = [*PICTURE, {"role": "assistant", "content": whole.content}, *user(ADD)]
    with client.messages.stream(**request_(history, thinking=THINKING)) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_message()
    assert {"thinking", "text"} <= kinds
    assert [block.type for block in final.content] == ["thinking", "text"]


@pytest.mark.parametrize("choice", ["auto", "any", "tool"])
@pytest.mark.parametrize("thinking", [DIRECT, THINKING], ids=["direct", "thinking"])
def test_tool_call_goes_round(
    client: anthropic.Anthropic, request_: Callable[..., Any], choice: str, thinking: Any
) -> None:
    tool_choice = {"type": choice} | ({"name": TOOL_NAME} if choice == "tool" else {})
    options = {"tools": [TOOL], "thinking": thinking}
    asked = client.messages.create(
        **request_(user(ASK_WEATHER), tool_choice=tool_choice, **options)
    )
    (call,) = (block for block in asked.content if block.type == "tool_use")
    assert (call.name, call.input) == (TOOL_NAME, {"city": "Paris"})
    assert asked.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": WEATHER_TEXT}
    answered = {"role": "assistant", "content": asked.content}
    history = [*user(ASK_WEATHER), answered, *user([result])]
    assert text_of(client.messages.create(**request_(history, **options))) == WEATHER_ANSWER


def test_tool_may_return_a_picture(
    client: anthropic.Anthropic, request_: Callable[..., Any]
) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": TOOL_NAME, "input": {"city": "Paris"}}
    num_tokens = []
    for content in ([], [{"type": "image", "source": SOURCE}]):
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": content}
        history = [*user(ASK_WEATHER), {"role": "assistant", "content": [call]}, *user([result])]
        message = client.messages.create(**request_(history, tools=[TOOL], max_tokens=8))
        num_tokens.append(message.usage.input_tokens)
    assert num_tokens[1] - num_tokens[0] > 16


def test_answers_and_faults_have_a_request_id(
    client: anthropic.Anthropic, request_: Callable[..., Any]
) -> None:
    assert client.messages.create(**request_(user(ADD)))._request_id
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**request_([]))
    assert caught.value.request_id


def test_streamed_tool_call_accumulates(
    client: anthropic.Anthropic, request_: Callable[..., Any]
) -> None:
    options = {"tools": [TOOL], "tool_choice": {"type": "any"}}
    with client.messages.stream(**request_(user(ASK_WEATHER), **options)) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        (call,) = stream.get_final_message().content
    assert call.type == "tool_use" and isinstance(call.input["city"], str)
    assert len(parts) > 1


def test_tool_choice_none_calls_nothing(
    client: anthropic.Anthropic, request_: Callable[..., Any]
) -> None:
    options = {"tools": [TOOL], "tool_choice": {"type": "none"}}
    message = client.messages.create(**request_(user(ADD), **options))
    assert [block.type for block in message.content] == ["text"]


def test_system_prompt_as_text_and_as_blocks(
    client: anthropic.Anthropic, request_: Callable[..., Any]
) -> None:
    text = "You are a helpful assistant."
    block = {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}
    both = [client.messages.create(**request_(user(ADD), system=s)) for s in (text, [block])]
    assert both[0].content == both[1].content
    assert both[0].usage.output_tokens == both[1].usage.output_tokens


def test_stop_sequence_is_named(client: anthropic.Anthropic, request_: Callable[..., Any]) -> None:
    request = request_(user("Name three colors."), stop_sequences=["blue!", ", "])
    message = client.messages.create(**request)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", ", ")
    assert text_of(message) and ", " not in text_of(message)


def test_limit_ends_the_answer(client: anthropic.Anthropic, request_: Callable[..., Any]) -> None:
    message = client.messages.create(**request_(user("Name three colors."), max_tokens=1))
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 1)


def test_tokens_are_counted_as_they_are_used(
    client: anthropic.Anthropic, request_: Callable[..., Any]
) -> None:
    request = request_(PICTURE, tools=[TOOL])
    usage = client.messages.create(**request).usage
    for field in ("max_tokens", "extra_body"):
        del request[field]
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    assert client.messages.count_tokens(**request).input_tokens == usage.input_tokens + cached


def test_parse_fills_a_type(client: anthropic.Anthropic, request_: Callable[..., Any]) -> None:
    message = client.messages.parse(**request_(PICTURE), output_format=Reading)
    assert isinstance(message.parsed_output, Reading)


@pytest.mark.parametrize(
    "fields, error_type, kind",
    [
        ({"model": "another"}, anthropic.NotFoundError, "not_found_error"),
        ({"extra_body": {"temperature": 9}}, anthropic.BadRequestError, "invalid_request_error"),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error"),
    ],
    ids=lambda value: str(value)[:24],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_fault_has_its_kind(
    client: anthropic.Anthropic,
    request_: Callable[..., Any],
    fields: Any,
    error_type: type[anthropic.APIStatusError],
    kind: str,
    stream: bool,
) -> None:
    with pytest.raises(error_type) as caught:
        client.messages.create(**{**request_(user(ADD)), **fields}, stream=stream)
    error: Any = caught.value.body
    assert (error["type"], error["error"]["type"]) == ("error", kind)
    assert error["error"]["message"]
