"""pydantic-ai's agents, over each API that they speak."""

from collections.abc import Callable
from typing import Any

import pytest
from asked import (
    ADD,
    ASK_WEATHER,
    NUMBER,
    PICTURE,
    READ_NUMBER,
    SUM,
    TOOL_NAME,
    WEATHER,
    WEATHER_ANSWER,
    Reading,
)
from conftest import Server
from pydantic_ai import Agent, BinaryContent, NativeOutput, ToolOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ThinkingPart, ToolCallPart
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

QUESTION = [READ_NUMBER, BinaryContent(PICTURE, media_type="image/png")]


def chat(server: Server, name: str) -> Model:
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=server.v1, api_key="none"))


def responses(server: Server, name: str) -> Model:
    return OpenAIResponsesModel(name, provider=OpenAIProvider(base_url=server.v1, api_key="none"))


def messages(server: Server, name: str) -> Model:
    provider = AnthropicProvider(base_url=server.url, api_key="none")
    # It takes this from a table of the names of Anthropic's models.
    return AnthropicModel(name, provider=provider, profile={"supports_json_schema_output": True})


# How thinking is turned off, and on.
MODELS: dict[Callable[[Server, str], Model], tuple[dict[str, Any], dict[str, Any]]] = {
    chat: ({"openai_reasoning_effort": "none"}, {}),
    responses: (
        {"openai_reasoning_effort": "none", "openai_store": False},
        {"openai_reasoning_effort": "medium", "openai_store": False},
    ),
    messages: (
        {"anthropic_thinking": {"type": "disabled"}},
        {"anthropic_thinking": {"type": "enabled", "budget_tokens": 128}},
    ),
}


@pytest.fixture(params=MODELS, ids=lambda build: build.__name__)
def build(request: pytest.FixtureRequest) -> Callable[[Server, str], Model]:
    return request.param


@pytest.fixture
def make_agent(server: Server, build: Any) -> Callable[..., Agent[None, Any]]:
    def make_agent(thinks: bool = False, **options: Any) -> Agent[None, Any]:
        settings: Any = {"temperature": 0, "max_tokens": 192, **MODELS[build][thinks]}
        return Agent(build(server, server.model), model_settings=settings, retries=0, **options)

    return make_agent


@pytest.mark.parametrize(
    "question, answer", [(QUESTION, NUMBER), (ADD, SUM)], ids=["picture", "text"]
)
async def test_whole_and_streamed_agree(
    make_agent: Callable[..., Agent[None, Any]], question: Any, answer: str
) -> None:
    result = await make_agent().run(question)
    assert result.output == answer
    assert result.usage.output_tokens > 0
    async with make_agent().run_stream(question) as stream:
        assert await stream.get_output() == answer


async def test_thinking_is_a_part(make_agent: Callable[..., Agent[None, Any]]) -> None:
    result = await make_agent(thinks=True).run(ADD)
    assert result.output == SUM
    parts = result.new_messages()[-1].parts
    (thought,) = (part for part in parts if isinstance(part, ThinkingPart))
    assert thought.content or (thought.provider_details or {})["raw_content"]


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("thinks", [False, True], ids=["direct", "thinking"])
async def test_agent_calls_a_tool_and_answers(
    make_agent: Callable[..., Agent[None, Any]], thinks: bool, is_streamed: bool
) -> None:
    agent = make_agent(thinks)
    cities: list[str] = []

    @agent.tool_plain(name=TOOL_NAME)
    def get_weather(city: str) -> dict[str, int]:
        cities.append(city)
        return WEATHER

    if is_streamed:
        async with agent.run_stream(ASK_WEATHER) as stream:
            answer = await stream.get_output()
    else:
        answer = (await agent.run(ASK_WEATHER)).output
    assert (cities, answer) == (["Paris"], WEATHER_ANSWER)


@pytest.mark.parametrize(
    "output", [ToolOutput(Reading), NativeOutput(Reading)], ids=["tool", "native"]
)
async def test_output_fills_a_type(
    make_agent: Callable[..., Agent[None, Any]], output: Any
) -> None:
    result = await make_agent(output_type=output).run(QUESTION)
    assert isinstance(result.output, Reading)


async def test_history_goes_on(make_agent: Callable[..., Agent[None, Any]]) -> None:
    agent = make_agent(thinks=True)
    first = await agent.run(ADD)
    second = await agent.run("Hello!", message_history=first.all_messages())
    assert second.output and len(second.all_messages()) == 4
    assert not any(isinstance(part, ToolCallPart) for part in second.new_messages()[-1].parts)


async def test_unknown_model_is_a_404(server: Server, build: Any) -> None:
    with pytest.raises(ModelHTTPError) as caught:
        await Agent(build(server, "another")).run(ADD)
    assert caught.value.status_code == 404
