"""LangChain's ChatOpenAI, over chat completions and over responses."""

from collections.abc import Callable
from typing import Any

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
)
from conftest import Server
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

TOOL = {"type": "function", "function": {"name": TOOL_NAME, "parameters": CITY_SCHEMA}}
APIS: dict[str, dict[str, Any]] = {
    "chat": {"extra_body": NO_THINKING},
    "responses": {"use_responses_api": True, "reasoning": {"effort": "none"}, "store": False},
}


@pytest.fixture(params=APIS)
def model(request: pytest.FixtureRequest, server: Server) -> ChatOpenAI:
    return make_model(server, **APIS[request.param])


@pytest.fixture
def chat_model(server: Server) -> ChatOpenAI:
    return make_model(server, **APIS["chat"])


def make_model(server: Server, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=server.model,
        base_url=server.v1,
        api_key="none",
        temperature=0,
        max_tokens=128,
        max_retries=0,
        stream_usage=True,
        **options,
    )


@pytest.mark.parametrize(
    "question, answer",
    [(HumanMessage(read_number()[0]["content"]), NUMBER), (HumanMessage(ADD), SUM)],
    ids=["picture", "text"],
)
def test_whole_and_streamed_agree(model: ChatOpenAI, question: Any, answer: str) -> None:
    whole = model.invoke([question])
    assert whole.text == answer
    assert whole.usage_metadata and whole.usage_metadata["output_tokens"] > 0
    streamed = AIMessageChunk("")
    for chunk in model.stream([question]):
        streamed += chunk
    assert streamed.text == answer
    assert streamed.usage_metadata and streamed.usage_metadata["total_tokens"] > 0


def test_responses_show_their_reasoning(server: Server) -> None:
    model = make_model(server, use_responses_api=True, output_version="v1", store=False)
    blocks = model.invoke(ADD).content_blocks
    assert [block["type"] for block in blocks] == ["reasoning", "text"]


def test_only_what_is_new_need_be_sent(server: Server) -> None:
    options: Any = {"use_responses_api": True, "reasoning": {"effort": "none"}, "store": True}
    whole, short = (make_model(server, **options, use_previous_response_id=v) for v in (0, 1))
    history = [HumanMessage(ADD), whole.invoke(ADD), HumanMessage("What is 2 + 2?")]
    answers = [model.invoke(history) for model in (whole, short)]
    assert answers[0].text == answers[1].text
    assert answers[0].usage_metadata == answers[1].usage_metadata


@pytest.mark.parametrize("choice", ["auto", "any", TOOL_NAME])
def test_tool_call_goes_round(model: ChatOpenAI, choice: str) -> None:
    asked = model.bind_tools([TOOL], tool_choice=choice).invoke(ASK_WEATHER)
    (call,) = asked.tool_calls
    assert (call["name"], call["args"]) == (TOOL_NAME, {"city": "Paris"})
    result = ToolMessage(WEATHER_TEXT, tool_call_id=call["id"])
    history = [HumanMessage(ASK_WEATHER), asked, result]
    assert model.bind_tools([TOOL]).invoke(history).text == WEATHER_ANSWER


def test_streamed_tool_call_accumulates(model: ChatOpenAI) -> None:
    streamed = AIMessageChunk("")
    for chunk in model.bind_tools([TOOL], tool_choice="any").stream(ASK_WEATHER):
        streamed += chunk
    (call,) = streamed.tool_calls
    assert call["name"] == TOOL_NAME and isinstance(call["args"]["city"], str)


def test_decorated_function_is_a_tool(model: ChatOpenAI) -> None:
    @tool
    def save_number(value: int) -> str:
        """Save a number."""
        return str(value)

    bound = model.bind_tools([save_number], tool_choice="save_number")
    (call,) = bound.invoke([HumanMessage(read_number()[0]["content"])]).tool_calls
    assert save_number.invoke(call).content == str(call["args"]["value"])


@pytest.mark.parametrize("schema", [Reading, Reading.model_json_schema()], ids=["type", "schema"])
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(model: ChatOpenAI, method: Any, schema: Any) -> None:
    structured: Callable[..., Any] = model.with_structured_output(schema, method=method).invoke
    found = structured([HumanMessage(read_number()[0]["content"])])
    assert isinstance(found["number"] if isinstance(found, dict) else found.number, int)


def test_batch_and_n(chat_model: ChatOpenAI) -> None:
    assert [message.text for message in chat_model.batch([ADD, ADD])] == [SUM, SUM]
    result = chat_model.generate([[HumanMessage(ADD)]], n=2)
    assert [generation.text for generation in result.generations[0]] == [SUM, SUM]


def test_stop_and_log_probabilities(chat_model: ChatOpenAI) -> None:
    message = chat_model.invoke("Name three colors.", stop=[", "], logprobs=True, top_logprobs=2)
    assert message.text and ", " not in message.text
    tokens = message.response_metadata["logprobs"]["content"]
    assert tokens and all(len(token["top_logprobs"]) == 2 for token in tokens)


async def test_without_waiting(model: ChatOpenAI) -> None:
    assert (await model.ainvoke(ADD)).text == SUM
    assert "".join([chunk.text async for chunk in model.astream(ADD)]) == SUM
