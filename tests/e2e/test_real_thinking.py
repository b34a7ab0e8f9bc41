"""Reasoning is told from content for each kind of checkpoint.

Weights are random, so the answers are drawn from three tokens: a letter and the two tags. What the
server must make of them follows from the tokens that the logprobs list.
"""

import pytest

from demo.tokenizer import build_tokenizer
from tests.e2e.real_media import image, text
from tests.e2e.real_server import RealServer

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
THINK = {"chat_template_kwargs": {"enable_thinking": True}}
DO_NOT_THINK = {"chat_template_kwargs": {"enable_thinking": False}}


def raw_text(choice) -> str:
    return "".join(entry.token for entry in choice.logprobs.content)


def split(choice) -> tuple[str | None, str | None]:
    return choice.message.reasoning_content, choice.message.content


def split_after_open_tag(text: str) -> tuple[str | None, str | None]:
    """Reasoning and content of an answer that begins inside the reasoning."""
    reasoning, tag, content = text.partition(CLOSE)
    return reasoning or None, content if tag else None


def mixed_choices(server: RealServer, **extra_body):
    options = {**MIXED, "extra_body": {**MIXED["extra_body"], **extra_body}}
    return server.ask("hi", **options).choices


def test_thinking_checkpoint_reasons_until_the_closing_tag(thinking: RealServer):
    choices = mixed_choices(thinking)
    splits = [split(choice) for choice in choices]
    assert splits == [split_after_open_tag(raw_text(choice)) for choice in choices]
    assert any(reasoning and content for reasoning, content in splits)


def test_stream_of_a_thinking_checkpoint_has_the_same_split(thinking: RealServer):
    options = {**MIXED, "n": 1, "max_tokens": 30}
    whole = thinking.ask("hi", **options).choices[0]
    assert all(split(whole))
    deltas = [chunk.choices[0].delta for chunk in thinking.stream("hi", **options)]
    streamed = [
        "".join(getattr(delta, name, None) or "" for delta in deltas)
        for name in ("reasoning_content", "content")
    ]
    assert tuple(streamed) == split(whole)


def test_reasoning_tokens_are_counted(thinking: RealServer):
    answer = thinking.ask("hi", **{**MIXED, "n": 1, "max_tokens": 30})
    before_content = raw_text(answer.choices[0]).partition(CLOSE)[0] + CLOSE
    expected = len(TOKENIZER.encode(before_content, add_special_tokens=False))
    assert answer.usage.completion_tokens_details.reasoning_tokens == expected


def test_answer_cut_in_its_reasoning_has_no_content(thinking: RealServer):
    choice = thinking.ask([image(), text("hi")], logit_bias={TOKEN_ID["a"]: 100}).choices[0]
    assert split(choice) == ("a" * 16, None)
    assert choice.finish_reason == "length"


def test_instruct_checkpoint_answers_with_content_only(instruct: RealServer):
    for choice in mixed_choices(instruct):
        assert choice.message.content == raw_text(choice)
        assert not hasattr(choice.message, "reasoning_content")


def test_hybrid_checkpoint_reasons_if_it_opens_the_block_itself(hybrid: RealServer):
    choices = mixed_choices(hybrid)
    opening = [choice for choice in choices if raw_text(choice).startswith(OPEN)]
    others = [choice for choice in choices if choice not in opening]
    assert opening and others
    for choice in opening:
        assert split(choice) == split_after_open_tag(raw_text(choice).removeprefix(OPEN))
    assert [split(choice) for choice in others] == [(None, raw_text(c)) for c in others]


def test_hybrid_checkpoint_told_not_to_think_answers_with_content_only(hybrid: RealServer):
    choices = mixed_choices(hybrid, **DO_NOT_THINK)
    assert any(raw_text(choice).startswith(OPEN) for choice in choices)
    assert all(choice.message.content == raw_text(choice) for choice in choices)


def test_switch_of_a_hybrid_checkpoint_reaches_its_template(hybrid: RealServer):
    default, on, off = (hybrid.ask("hi", extra_body=body) for body in ({}, THINK, DO_NOT_THINK))
    closed_block = f"{OPEN}\n\n{CLOSE}\n\n"
    num_more = len(TOKENIZER.encode(closed_block, add_special_tokens=False))
    assert on.usage.prompt_tokens == default.usage.prompt_tokens
    assert off.usage.prompt_tokens == default.usage.prompt_tokens + num_more


@pytest.mark.parametrize(("kind", "wanted"), [("instruct", THINK), ("thinking", DO_NOT_THINK)])
def test_what_a_checkpoint_cannot_do_is_refused(request: pytest.FixtureRequest, kind, wanted):
    server = request.getfixturevalue(kind)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **wanted}
    response = server.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "chat_template_kwargs.enable_thinking"
