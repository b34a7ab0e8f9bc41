"""The official Python client: chat and completions."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from asked import (
    ADD,
    ASK_WEATHER,
    CITY_SCHEMA,
    NO_THINKING,
    NUMBER,
    SUM,
    TOOL_NAME,
    WEATHER_ANSWER,
    WEATHER_TEXT,
    Reading,
    read_number,
    user,
)
from conftest import Server

TOOL: Any = {"type": "function", "function": {"name": TOOL_NAME, "parameters": CITY_SCHEMA}}
FORCED: Any = {"type": "function", "function": {"name": TOOL_NAME}}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.v1, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def ask(client: openai.OpenAI, server: Server) -> Callable[..., Any]:
    """A chat completion: greedy, short, without thinking unless it is asked for."""

    def ask(messages: Any, **options: Any) -> Any:
        defaults = {"temperature": 0, "max_tokens": 64, "extra_body": NO_THINKING}
        return client.chat.completions.create(
            model=server.model, messages=messages, **{**defaults, **options}
        )

    return ask


def test_models_are_listed_and_found(client: openai.OpenAI, server: Server) -> None:
    assert [model.id for model in client.models.list()] == [server.model]
    assert client.models.retrieve(server.model).object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


# --- chat ---


@pytest.mark.parametrize("messages, answer", [(read_number(), NUMBER), (user(ADD), SUM)])
def test_chat_whole_and_streamed_agree(ask: Callable[..., Any], messages: Any, answer: str) -> None:
    whole = ask(messages)
    assert whole.choices[0].message.content == answer
    assert whole.choices[0].finish_reason == "stop"
    chunks = list(ask(messages, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == answer
    assert chunks[-1].usage == whole.usage
    usage = whole.usage
    assert usage.prompt_tokens + usage.completion_tokens == usage.total_tokens


def test_thinking_comes_apart_from_the_answer(ask: Callable[..., Any]) -> None:
    message = ask(read_number(), extra_body=None).choices[0].message
    assert message.content == NUMBER
    assert message.reasoning_content and message.reasoning == message.reasoning_content
    chunks = list(ask(read_number(), extra_body=None, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert thought == message.reasoning_content
    assert "".join(delta.content or "" for delta in deltas) == NUMBER


def test_reasoning_effort_none_turns_thinking_off(ask: Callable[..., Any]) -> None:
    message = ask(user(ADD), extra_body=None, reasoning_effort="none").choices[0].message
    assert message.content == SUM
    assert not getattr(message, "reasoning_content", None)


def test_reasoning_tokens_are_counted(ask: Callable[..., Any]) -> None:
    usage = ask(user(ADD), extra_body=None).usage
    assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens


@pytest.mark.parametrize("choice", ["auto", "required", FORCED], ids=str)
@pytest.mark.parametrize("is_thinking", [False, True], ids=["direct", "thinking"])
def test_tool_call_goes_round(ask: Callable[..., Any], choice: Any, is_thinking: bool) -> None:
    extra_body = None if is_thinking else NO_THINKING
    options = {"tools": [TOOL], "parallel_tool_calls": False, "extra_body": extra_body}
    asked = ask(user(ASK_WEATHER), tool_choice=choice, **options).choices[0]
    assert asked.finish_reason == "tool_calls"
    (call,) = asked.message.tool_calls
    assert call.function.name == TOOL_NAME
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    messages = [
        *user(ASK_WEATHER),
        asked.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": WEATHER_TEXT},
    ]
    answer = ask(messages, **options).choices[0]
    assert (answer.message.content, answer.finish_reason) == (WEATHER_ANSWER, "stop")


def test_tool_choice_none_calls_nothing(ask: Callable[..., Any]) -> None:
    choice = ask(user(ADD), tools=[TOOL], tool_choice="none").choices[0]
    assert not choice.message.tool_calls
    assert choice.message.content


def test_streamed_tool_call_accumulates(client: openai.OpenAI, server: Server) -> None:
    with client.chat.completions.stream(
        model=server.model,
        messages=user(ASK_WEATHER),
        tools=[TOOL],
        tool_choice="required",
        temperature=0,
        max_tokens=64,
        extra_body=NO_THINKING,
    ) as stream:
        kinds = {event.type for event in stream}
        (call,) = stream.get_final_completion().choices[0].message.tool_calls or []
    assert "tool_calls.function.arguments.done" in kinds
    assert json.loads(call.function.arguments)["city"]


@pytest.mark.parametrize("extra_body", [None, NO_THINKING], ids=["thinking", "direct"])
def test_parse_fills_a_type(client: openai.OpenAI, server: Server, extra_body: Any) -> None:
    completion = client.chat.completions.parse(
        model=server.model,
        messages=read_number(),
        response_format=Reading,
        temperature=0,
        max_tokens=128,
        extra_body=extra_body,
    )
    assert isinstance(completion.choices[0].message.parsed, Reading)


def test_parse_fills_the_type_of_a_tool(client: openai.OpenAI, server: Server) -> None:
    completion = client.chat.completions.parse(
        model=server.model,
        messages=read_number(),
        tools=[openai.pydantic_function_tool(Reading)],
        tool_choice="required",
        temperature=0,
        max_tokens=64,
        extra_body=NO_THINKING,
    )
    (call,) = completion.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Reading)


def test_json_object(ask: Callable[..., Any]) -> None:
    answer = ask(user(ADD), response_format={"type": "json_object"}, max_tokens=256)
    choice = answer.choices[0]
    assert choice.message.content.lstrip().startswith("{")
    if choice.finish_reason == "stop":  # nothing but the limit ends an object before its time
        assert isinstance(json.loads(choice.message.content), dict)


def test_two_choices_and_their_log_probabilities(ask: Callable[..., Any]) -> None:
    choices = ask(user(ADD), n=2, logprobs=True, top_logprobs=3).choices
    assert [choice.index for choice in choices] == [0, 1]
    for choice in choices:
        first = choice.logprobs.content[0]
        assert first.logprob <= 0 and bytes(first.bytes).decode() == first.token
        assert len(first.top_logprobs) == 3
        assert "".join(token.token for token in choice.logprobs.content) == SUM


def test_same_seed_gives_the_same_answer(ask: Callable[..., Any]) -> None:
    question, options = user("Hello!"), {"temperature": 2, "max_tokens": 24}
    first, second = (ask(question, seed=5, **options).choices[0].message for _ in range(2))
    assert first.content == second.content


def test_stop_ends_the_answer(ask: Callable[..., Any]) -> None:
    choice = ask(user("Name three colors."), stop=[", "]).choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.content and ", " not in choice.message.content


def test_stop_may_stay_in_the_answer(ask: Callable[..., Any]) -> None:
    extra_body = {**NO_THINKING, "include_stop_str_in_output": True}
    choice = ask(user("Name three colors."), stop=[", "], extra_body=extra_body).choices[0]
    assert choice.message.content.endswith(", ")


def test_choice_is_made_among_texts(ask: Callable[..., Any]) -> None:
    extra_body = {**NO_THINKING, "structured_outputs": {"choice": ["cat", "dog"]}}
    assert ask(user(ADD), extra_body=extra_body).choices[0].message.content in ("cat", "dog")


def test_usage_grows_with_the_chunks(ask: Callable[..., Any]) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(ask(user("Name three colors."), stream=True, stream_options=options))
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts) and counts[-1] > counts[0]


def test_answers_and_faults_have_a_request_id(ask: Callable[..., Any]) -> None:
    assert ask(user(ADD))._request_id
    with pytest.raises(openai.BadRequestError) as caught:
        ask(user(ADD), temperature=9)
    assert caught.value.request_id


def test_limit_ends_the_answer(ask: Callable[..., Any]) -> None:
    choice = ask(user("Name three colors."), max_tokens=None, max_completion_tokens=1).choices[0]
    assert choice.finish_reason == "length"


def test_logit_bias_forbids_a_token(client: openai.OpenAI, ask: Callable[..., Any]) -> None:
    path = f"{str(client.base_url).removesuffix('/v1/')}/tokenize"
    tokens = client.post(path, cast_to=dict, body={"prompt": SUM, "add_special_tokens": False})
    (token,) = tokens["tokens"]
    assert SUM not in ask(user(ADD), logit_bias={token: -100}).choices[0].message.content


FAULTS = [
    ({"model": "another"}, openai.NotFoundError, "model"),
    ({"temperature": 9}, openai.BadRequestError, "temperature"),
    ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
    ({"messages": []}, openai.BadRequestError, "messages"),
]


@pytest.mark.parametrize("fields, error_type, param", FAULTS, ids=lambda value: str(value)[:24])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_fault_names_its_field(
    client: openai.OpenAI,
    server: Server,
    fields: Any,
    error_type: type[openai.APIStatusError],
    param: str,
    stream: bool,
) -> None:
    request = {"model": server.model, "messages": user(ADD), **fields}
    with pytest.raises(error_type) as caught:
        client.chat.completions.create(**request, stream=stream)
    assert caught.value.param == param
    assert caught.value.type and caught.value.body["message"]


# --- completions ---


def test_completion_whole_and_streamed_agree(client: openai.OpenAI, server: Server) -> None:
    request: Any = {"model": server.model, "prompt": "red, ", "max_tokens": 4, "temperature": 0}
    whole = client.completions.create(**request)
    assert whole.usage and whole.usage.completion_tokens <= 4
    chunks = list(client.completions.create(**request, stream=True))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text


def test_completion_of_several_prompts(client: openai.OpenAI, server: Server) -> None:
    completion = client.completions.create(
        model=server.model, prompt=["red", "blue"], max_tokens=1, logprobs=2, echo=False, n=2
    )
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
    for choice in completion.choices:  # the token that ends an answer is not listed
        assert choice.logprobs
        assert bool(choice.logprobs.tokens) is (choice.finish_reason == "length")


# --- without waiting ---


async def test_async_client(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=server.v1, api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=server.model,
            messages=user(ADD),
            temperature=0,
            stream=True,
            extra_body=NO_THINKING,
        )
        parts = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    assert "".join(parts) == SUM
