"""instructor's ways of filling a type, over each API that it speaks."""

from collections.abc import Callable, Iterable
from typing import Any

import anthropic
import instructor
import openai
import pytest
from asked import (
    ASK_WEATHER,
    NO_THINKING,
    PICTURE_BASE64,
    READ_NUMBER,
    TOOL_NAME,
    Reading,
    read_number,
    user,
)
from conftest import Server
from instructor import Mode
from instructor.core.exceptions import IncompleteOutputException
from pydantic import BaseModel, create_model

SOURCE = {"type": "base64", "media_type": "image/png", "data": PICTURE_BASE64}
ANTHROPIC_PICTURE = user(
    [{"type": "image", "source": SOURCE}, {"type": "text", "text": READ_NUMBER}]
)
CHAT_OPTIONS: Any = {"temperature": 0, "max_tokens": 128, "extra_body": NO_THINKING}
NO_THINKING_ANTHROPIC: Any = {
    "max_tokens": 128,
    "thinking": {"type": "disabled"},
    "extra_body": {"temperature": 0},
}


class Anything(BaseModel):
    """Any JSON object is one."""


def over_openai(mode: Mode) -> Callable[[Server], instructor.Instructor]:
    def build(server: Server) -> instructor.Instructor:
        client = openai.OpenAI(base_url=server.v1, api_key="none", max_retries=0)
        return instructor.from_openai(client, mode=mode)

    return build


def over_anthropic(mode: Mode) -> Callable[[Server], instructor.Instructor]:
    def build(server: Server) -> instructor.Instructor:
        client = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)
        return instructor.from_anthropic(client, mode=mode)

    return build


RESPONSES_OPTIONS: Any = {
    "reasoning": {"effort": "none"},
    "temperature": 0,
    "max_output_tokens": 128,
    "store": False,
}
WAYS = {
    "tools": (over_openai(Mode.TOOLS), read_number(), CHAT_OPTIONS),
    "tools_strict": (over_openai(Mode.TOOLS_STRICT), read_number(), CHAT_OPTIONS),
    "json_schema": (over_openai(Mode.JSON_SCHEMA), read_number(), CHAT_OPTIONS),
    "responses_tools": (
        over_openai(Mode.RESPONSES_TOOLS),
        user(READ_NUMBER),
        RESPONSES_OPTIONS,
    ),
    "anthropic_tools": (
        over_anthropic(Mode.ANTHROPIC_TOOLS),
        ANTHROPIC_PICTURE,
        NO_THINKING_ANTHROPIC,
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_way_fills_a_type(server: Server, way: str) -> None:
    build, messages, options = WAYS[way]
    reading = build(server).create(
        model=server.model,
        messages=messages,
        response_model=Reading,
        max_retries=1,  # a second try would hide what the first got wrong
        **options,
    )
    assert isinstance(reading, Reading)


def test_json_mode_gives_an_object(server: Server) -> None:
    """Left alone with the grammar of any object, the demo model may not find its end."""
    try:
        anything = over_openai(Mode.JSON)(server).create(
            model=server.model,
            messages=read_number(),
            response_model=Anything,
            max_retries=1,
            **CHAT_OPTIONS,
        )
        assert isinstance(anything, Anything)
    except IncompleteOutputException as error:
        completion: Any = error.last_completion
        assert completion.choices[0].message.content.startswith("{")


@pytest.mark.parametrize("way", ["tools", "json_schema"])
def test_partial_objects_end_in_a_whole_one(server: Server, way: str) -> None:
    build, messages, options = WAYS[way]
    parts = list(
        build(server).create_partial(
            model=server.model, messages=messages, response_model=Reading, **options
        )
    )
    assert isinstance(parts[-1].number, int)


def test_parallel_tools_are_chosen_freely(server: Server) -> None:
    weather = create_model(TOOL_NAME, city=(str, ...))
    calls = over_openai(Mode.PARALLEL_TOOLS)(server).create(
        model=server.model,
        messages=user(ASK_WEATHER),
        response_model=Iterable[weather],
        max_retries=1,
        **CHAT_OPTIONS,
    )
    assert [call.model_dump() for call in calls] == [{"city": "Paris"}]
