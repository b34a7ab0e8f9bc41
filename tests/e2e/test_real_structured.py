"""Answers that must have a form: random weights obey the grammar, so a form is all they have."""

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

from demo.tokenizer import build_tokenizer
from server.prompt import PromptRenderer
from server.settings import ThinkingSettings
from tests.e2e.real_media import image, text
from tests.e2e.real_server import RealServer

CLOSE = "</think>"
TOKENIZER = build_tokenizer()
LENGTH = 200
SCHEMA = {
    "type": "object",
    "properties": {
        "color": {"enum": ["red", "blue"]},
        "is_round": {"type": "boolean"},
        "sizes": {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["color", "is_round", "sizes"],
    "additionalProperties": False,
}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "shape", "schema": SCHEMA}}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA}}
    for name in ("draw", "erase")
]
SENTENCE = ThinkingSettings().early_stopping_text
BUDGET = {"thinking_budget": 6}
# The thinking is a few letters and ends by itself; a grammar keeps them out of the answer.
ENDS = {"logit_bias": {TOKENIZER.convert_tokens_to_ids(t): 100 for t in (*"ghjk", CLOSE)}}


def ask(server: RealServer, content: Any = "hi", *, thinks: bool | None = False, **options: Any):
    """The only choice of a seeded answer."""
    options = {"temperature": 1, "seed": 5, "max_tokens": LENGTH, **options}
    (choice,) = server.ask(content, thinks=thinks, **options).choices
    return choice


def assert_after_schema(content: str) -> None:
    value = json.loads(content)
    assert list(value) == SCHEMA["required"]
    assert value["color"] in ("red", "blue")
    assert isinstance(value["is_round"], bool)
    assert value["sizes"] and set(value["sizes"]) <= {1, 2, 3}


def read_calls(choice: Any) -> list[tuple[str, str]]:
    return [(call.function.name, call.function.arguments) for call in choice.message.tool_calls]


def join_stream(chunks: Sequence[Any]) -> dict[str, Any]:
    """Texts and calls of a streamed answer of one choice."""
    texts = {"reasoning": "", "content": ""}
    calls: dict[int, list[str]] = {}
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        for name in texts:
            texts[name] += getattr(choice.delta, name, None) or ""
        for call in choice.delta.tool_calls or ():
            if call.id:
                calls[call.index] = [call.function.name, ""]
            calls[call.index][1] += call.function.arguments
    return {**texts, "calls": [tuple(call) for call in calls.values()]}


@pytest.mark.parametrize("seed", range(4))
def test_answer_has_the_form_of_its_schema(hybrid: RealServer, seed: int) -> None:
    choice = ask(hybrid, response_format=JSON_SCHEMA, seed=seed)
    assert_after_schema(choice.message.content)
    assert choice.finish_reason == "stop"


def test_answer_about_an_image_has_the_form_of_its_schema(hybrid: RealServer) -> None:
    content = [image(max_pixels=65536), text("What is it?")]
    assert_after_schema(ask(hybrid, content, response_format=JSON_SCHEMA).message.content)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"guided_choice": ["red circle", "blue"]}, "red circle|blue"),
        ({"guided_regex": "[0-9]{3}-[a-f]{2,4}"}, "[0-9]{3}-[a-f]{2,4}"),
        ({"guided_grammar": 'root ::= "(" [xy] ")" | "()"'}, r"\([xy]?\)"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
    ],
)
@pytest.mark.parametrize("thinks", [False, True])
def test_answer_is_of_what_is_allowed(
    hybrid: RealServer, thinks: bool, options: dict[str, Any], pattern: str
) -> None:
    extra = {**options, **BUDGET} if thinks else options
    for seed in range(3):
        choice = ask(hybrid, thinks=None if thinks else False, seed=seed, extra_body=extra)
        assert re.fullmatch(pattern, choice.message.content)
        assert choice.finish_reason == "stop"


def test_streamed_answer_of_a_form_is_the_whole_one(thinking: RealServer) -> None:
    options = {"response_format": JSON_SCHEMA, "extra_body": BUDGET, "thinks": None}
    options |= {"temperature": 1, "seed": 5, "max_tokens": LENGTH}
    message = thinking.ask("hi", **options).choices[0].message
    assert_after_schema(message.content)
    assert join_stream(thinking.stream("hi", **options)) == {
        "reasoning": message.reasoning,
        "content": message.content,
        "calls": [],
    }


@pytest.mark.parametrize("seed", range(3))
def test_form_begins_behind_thinking_that_is_cut(thinking: RealServer, seed: int) -> None:
    free = ask(thinking, thinks=None, seed=seed, extra_body=BUDGET)
    choice = ask(thinking, thinks=None, seed=seed, extra_body=BUDGET, response_format=JSON_SCHEMA)
    assert choice.message.reasoning == free.message.reasoning
    assert choice.message.reasoning.endswith(SENTENCE)
    assert_after_schema(choice.message.content)


def test_form_begins_behind_thinking_that_ends_by_itself(thinking: RealServer) -> None:
    seen = set()
    for seed in range(4):
        options = {"thinks": None, "seed": seed, **ENDS}
        free = ask(thinking, **options)
        choice = ask(thinking, **options, response_format=JSON_SCHEMA)
        assert choice.message.reasoning == free.message.reasoning
        assert_after_schema(choice.message.content)
        seen.add(choice.message.reasoning)
    assert len(seen) > 1


def test_thinking_that_is_not_over_has_no_form(thinking: RealServer) -> None:
    choice = ask(thinking, thinks=None, max_tokens=20, response_format=JSON_SCHEMA)
    assert (choice.message.content, choice.finish_reason) == (None, "length")
    assert choice.message.reasoning


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"tool_choice": "required"}, {"draw", "erase"}),
        ({"tool_choice": {"type": "function", "function": {"name": "erase"}}}, {"erase"}),
    ],
)
@pytest.mark.parametrize("thinks", [False, True])
def test_forced_call_has_arguments_after_its_schema(
    thinking: RealServer, thinks: bool, options: dict[str, Any], names: set[str]
) -> None:
    extra = {"extra_body": BUDGET} if thinks else {}
    options = {"tools": TOOLS, "parallel_tool_calls": False, **options, **extra}
    for seed in range(3):
        choice = ask(thinking, thinks=None if thinks else False, seed=seed, **options)
        ((name, arguments),) = read_calls(choice)
        assert name in names
        assert_after_schema(arguments)
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        assert (getattr(choice.message, "reasoning", None) is not None) == thinks


def test_streamed_calls_are_the_whole_ones(thinking: RealServer) -> None:
    options = {"tools": TOOLS, "tool_choice": "required", "extra_body": BUDGET, "thinks": None}
    options |= {"temperature": 1, "seed": 5, "max_tokens": 2 * LENGTH}
    choice = thinking.ask("hi", **options).choices[0]
    chunks = thinking.stream("hi", **options)
    streamed = join_stream(chunks)
    assert (streamed["reasoning"], streamed["content"]) == (choice.message.reasoning, "")
    assert streamed["calls"] == read_calls(choice)
    assert chunks[-1].choices[0].finish_reason == choice.finish_reason


@pytest.mark.parametrize("seed", range(4))
def test_with_tools_and_a_format_the_answer_is_one_of_both(hybrid: RealServer, seed: int) -> None:
    choice = ask(
        hybrid, tools=TOOLS, response_format=JSON_SCHEMA, parallel_tool_calls=False, seed=seed
    )
    if choice.message.tool_calls:
        ((_, arguments),) = read_calls(choice)
        assert_after_schema(arguments)
    else:
        assert_after_schema(choice.message.content)


def test_tools_that_are_not_forced_leave_the_answer_free(hybrid: RealServer) -> None:
    choice = ask(hybrid, tools=TOOLS)
    assert choice.message.content and not choice.message.tool_calls


def test_tools_and_their_results_are_in_the_prompt(
    hybrid: RealServer, renderer: PromptRenderer
) -> None:
    function = {"name": "draw", "arguments": '{"color": "red"}'}
    call = {"id": "1", "type": "function", "function": function}
    result = [image(max_pixels=65536), text("done")]
    messages = [
        {"role": "user", "content": "Draw."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": result},
    ]
    usage = hybrid.ask("", messages=messages, tools=TOOLS).usage
    rendered = [
        messages[0],
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "draw", "arguments": {"color": "red"}}}],
        },
        {"role": "tool", "content": [{"type": "image"}, text("done")]},
    ]
    num_image_tokens = usage.prompt_tokens_details.image_tokens
    expected = len(renderer.render(rendered, thinking=False, tools=TOOLS)) - 1 + num_image_tokens
    assert num_image_tokens > 0
    assert usage.prompt_tokens == expected


def test_choices_of_a_form_differ(hybrid: RealServer) -> None:
    options = {"n": 4, "temperature": 2, "seed": 1, "max_tokens": LENGTH}
    choices = hybrid.ask("hi", response_format=JSON_SCHEMA, **options).choices
    contents = [choice.message.content for choice in choices]
    for content in contents:
        assert_after_schema(content)
    assert len(set(contents)) > 1


def test_stop_string_ends_an_answer_of_a_form(hybrid: RealServer) -> None:
    whole = ask(hybrid, response_format=JSON_SCHEMA).message.content
    choice = ask(hybrid, response_format=JSON_SCHEMA, stop='"is_round"')
    assert choice.message.content == whole.partition('"is_round"')[0]
    assert choice.finish_reason == "stop"


def test_tokens_that_the_grammar_forbids_have_finite_log_probabilities(hybrid: RealServer):
    body = {"structured_outputs": {"choice": ["a"]}}
    answer = hybrid.ask("hi", logprobs=True, top_logprobs=20, extra_body=body)
    (drawn, *_) = answer.choices[0].logprobs.content
    assert all(-9999 <= token.logprob <= 0 for token in drawn.top_logprobs)
