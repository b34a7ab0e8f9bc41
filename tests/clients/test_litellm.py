"""litellm, which speaks to the server as to OpenAI, to vLLM and to Anthropic."""

import json
from collections.abc import Callable
from typing import Any

import litellm
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

TOOL = {"type": "function", "function": {"name": TOOL_NAME, "parameters": CITY_SCHEMA}}
FORCED = {"type": "function", "function": {"name": TOOL_NAME}}
PROVIDERS: dict[str, dict[str, Any]] = {
    "openai": {"extra_body": NO_THINKING},
    "hosted_vllm": {"extra_body": NO_THINKING},
    # It does not know that the model thinks.
    "anthropic": {"thinking": {"type": "disabled"}, "allowed_openai_params": ["thinking"]},
}


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ask(server: Server, provider: str) -> Callable[..., Any]:
    def ask(messages: Any, name: str = server.model, **options: Any) -> Any:
        return litellm.completion(
            model=f"{provider}/{name}",
            api_base=server.url if provider == "anthropic" else server.v1,
            api_key="none",
            messages=messages,
            max_tokens=128,
            max_retries=0,
            **{"temperature": 0, **PROVIDERS[provider], **options},
        )

    return ask


@pytest.mark.parametrize(
    "messages, answer", [(read_number(), NUMBER), (user(ADD), SUM)], ids=["picture", "text"]
)
def test_whole_and_streamed_agree(ask: Callable[..., Any], messages: Any, answer: str) -> None:
    whole = ask(messages)
    assert whole.choices[0].message.content == answer
    chunks = list(ask(messages, stream=True, stream_options={"include_usage": True}))
    assert litellm.stream_chunk_builder(chunks).choices[0].message.content == answer
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens > 0


def test_thinking_is_reasoning_content(ask: Callable[..., Any], provider: str) -> None:
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 100}}
    options = thinking if provider == "anthropic" else {"extra_body": {}}
    assert ask(user(ADD), **options).choices[0].message.reasoning_content


@pytest.mark.parametrize("choice", ["auto", "required", FORCED], ids=["auto", "required", "named"])
def test_tool_call_goes_round(ask: Callable[..., Any], choice: Any) -> None:
    asked = ask(user(ASK_WEATHER), tools=[TOOL], tool_choice=choice).choices[0]
    assert asked.finish_reason == "tool_calls"
    (call,) = asked.message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    result = {"role": "tool", "tool_call_id": call.id, "content": WEATHER_TEXT}
    history = [*user(ASK_WEATHER), asked.message.model_dump(), result]
    assert ask(history, tools=[TOOL]).choices[0].message.content == WEATHER_ANSWER


def test_streamed_tool_call_accumulates(ask: Callable[..., Any]) -> None:
    chunks = ask(user(ASK_WEATHER), tools=[TOOL], tool_choice="required", stream=True)
    (call,) = litellm.stream_chunk_builder(list(chunks)).choices[0].message.tool_calls
    assert call.function.name == TOOL_NAME
    assert isinstance(json.loads(call.function.arguments)["city"], str)


def test_response_format_fills_a_type(ask: Callable[..., Any]) -> None:
    content = ask(read_number(), response_format=Reading).choices[0].message.content
    assert Reading.model_validate_json(content)


def test_responses(server: Server) -> None:
    response = litellm.responses(
        model=f"openai/{server.model}",
        api_base=server.v1,
        api_key="none",
        input=ADD,
        reasoning={"effort": "none"},
        temperature=0,
        store=False,
    )
    (message,) = response.output
    assert message.content[0].text == SUM


def test_faults_keep_their_kind(ask: Callable[..., Any]) -> None:
    with pytest.raises(litellm.BadRequestError):
        ask(user(ADD), temperature=9)
    with pytest.raises(litellm.NotFoundError):
        ask(user(ADD), name="another")
