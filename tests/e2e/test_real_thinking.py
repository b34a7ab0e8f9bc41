"""Reasoning is told from content for each kind of checkpoint.

Weights are random, so the answers are drawn from three tokens: a letter and the two tags. What the
server must make of them follows from the tokens that the logprobs list.
"""

import pytest

from demo.tokenizer import build_tokenizer
from server.prompt import PromptRenderer
from tests.e2e.real_media import image, text
from tests.e2e.real_server import RealServer, make_request
from tests.fake_backend import assert_error

OPEN, CLOSE = "<think>", "</think>"
TOKENIZER = build_tokenizer()
TOKEN_ID = {token: TOKENIZER.convert_tokens_to_ids(token) for token in ("a", OPEN, CLOSE)}
MIXED = {
    "logit_bias": dict.fromkeys(TOKEN_ID.values(), 100),
    "temperature": 2,
    "n": 16,
    "seed": 1,
    "max_tokens": 8,
    "logprobs": True,
    "extra_body": {"top_k": 0, "top_p": 1.0},
}


def raw_text(choice) -> str:
    return "".join(entry.token for entry in choice.logprobs.content)


def split(choice) -> tuple[str | None, str | None]:
    return choice.message.reasoning_content, choice.message.content


def split_after_open_tag(text: str) -> tuple[str | None, str | None]:
    """Reasoning and content of an answer that begins inside the reasoning."""
    reasoning, tag, content = text.partition(CLOSE)
    return reasoning or None, content if tag else None


def mixed_choices(server: RealServer, **options):
    return server.ask("hi", **MIXED, **options).choices


@pytest.mark.parametrize("kind", ["thinking", "hybrid"])
def test_reasoning_lasts_until_the_closing_tag(request: pytest.FixtureRequest, kind):
    choices = mixed_choices(request.getfixturevalue(kind), thinks=True)
    splits = [split(choice) for choice in choices]
    assert splits == [split_after_open_tag(raw_text(choice)) for choice in choices]
    assert any(reasoning and content for reasoning, content in splits)


def test_stream_of_a_thinking_checkpoint_has_the_same_split(thinking: RealServer):
    options = {**MIXED, "n": 1, "max_tokens": 30}
    whole = thinking.ask("hi", thinks=True, **options).choices[0]
    assert all(split(whole))
    chunks = thinking.stream("hi", thinks=True, **options)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    streamed = [
        "".join(getattr(delta, name, None) or "" for delta in deltas)
        for name in ("reasoning_content", "content")
    ]
    assert tuple(streamed) == split(whole)


def test_reasoning_tokens_are_counted_between_the_tags(thinking: RealServer):
    answer = thinking.ask("hi", thinks=True, **{**MIXED, "n": 1, "max_tokens": 30})
    tokens = [entry.token for entry in answer.choices[0].logprobs.content]
    assert 0 < tokens.index(CLOSE) < len(tokens) - 1
    assert answer.usage.completion_tokens_details.reasoning_tokens == tokens.index(CLOSE)
    assert answer.usage.completion_tokens == len(tokens)


def test_answer_cut_in_its_reasoning_has_no_content(thinking: RealServer):
    content = [image(), text("hi")]
    choice = thinking.ask(content, thinks=True, logit_bias={TOKEN_ID["a"]: 100}).choices[0]
    assert split(choice) == ("a" * 16, None)
    assert choice.finish_reason == "length"


def test_instruct_checkpoint_answers_with_content_only(instruct: RealServer):
    for choice in mixed_choices(instruct):
        assert choice.message.content == raw_text(choice)
        assert not hasattr(choice.message, "reasoning_content")


@pytest.mark.parametrize("kind", ["thinking", "hybrid"])
def test_checkpoint_told_not_to_think_answers_with_content_only(
    request: pytest.FixtureRequest, kind
):
    choices = mixed_choices(request.getfixturevalue(kind), thinks=False)
    assert any(raw_text(choice).startswith(OPEN) for choice in choices)
    for choice in choices:
        assert choice.message.content == raw_text(choice)
        assert not hasattr(choice.message, "reasoning_content")


@pytest.mark.parametrize("kind", ["thinking", "hybrid"])
def test_switch_changes_the_end_of_the_prompt(request: pytest.FixtureRequest, kind):
    server = request.getfixturevalue(kind)
    renderer = PromptRenderer(str(request.getfixturevalue(f"{kind}_checkpoint")))
    message = {"role": "user", "content": "hi"}
    lengths = {on: len(renderer.render([message], thinking=on)) for on in (True, False)}
    counts = {on: server.ask("hi", thinks=on).usage.prompt_tokens for on in (True, False, None)}
    assert counts == {**lengths, None: lengths[True]}
    assert lengths[True] < lengths[False]


def test_instruct_checkpoint_cannot_think(instruct: RealServer):
    request = make_request("hi", thinks=None, enable_thinking=True)
    response = instruct.http.post("/v1/chat/completions", json=request)
    assert_error(response, 400, "unsupported_parameter", "enable_thinking")
