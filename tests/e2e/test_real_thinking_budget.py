"""Thinking that ends after an exact number of tokens, and an answer that follows from it.

Weights are random: free answers never close the block, and those of `MIXED` close it by chance.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from demo.tokenizer import build_tokenizer
from server.prompt import PromptRenderer
from server.settings import ThinkingSettings
from server.thinking_budget import ThinkingEnd
from tests.e2e.real_media import FRAMES, image, text
from tests.e2e.real_server import RealServer, wait_until

CLOSE = "</think>"
SENTENCE = ThinkingSettings().early_stopping_text
LENGTH = 130  # the sentence takes 85 tokens of this tokenizer
TOKENIZER = build_tokenizer()
CLOSE_ID = TOKENIZER.convert_tokens_to_ids(CLOSE)
MIXED = {
    "logit_bias": {TOKENIZER.convert_tokens_to_ids(token): 100 for token in (*"abcdef", CLOSE)},
    "extra_body": {"top_k": 0, "top_p": 1.0},
    "max_tokens": 40,
}
CONTENT = [image("coffee_cmyk.jpg", max_pixels=65536), text("What is it?")]


@pytest.fixture(scope="module")
def end(thinking_checkpoint: Path) -> ThinkingEnd:
    """What the server puts behind thinking that is cut short."""
    return PromptRenderer(str(thinking_checkpoint)).end_thinking(SENTENCE)


def draw(server: RealServer, content: Any = "hi", *, budget: int | None = None, **options: Any):
    """A seeded answer at temperature 1 with its logprobs, as long as it may be."""
    body = {"ignore_eos": True, **options.pop("extra_body", {})}
    if budget is not None:
        body = {**body, "thinking_budget": budget}
    defaults = {"temperature": 1, "seed": 7, "max_tokens": LENGTH}
    options = {"thinks": None, "logprobs": True, **defaults, **options}
    return server.ask(content, **options, extra_body=body)


def tokens_of(choice: Any) -> list[str]:
    return [entry.token for entry in choice.logprobs.content]


def logprobs_of(choice: Any) -> list[float]:
    return [entry.logprob for entry in choice.logprobs.content]


def told(choice: Any) -> tuple[Any, ...]:
    """All that a choice says, but for the rounding of its logprobs."""
    message = choice.message
    return message.reasoning_content, message.content, choice.finish_reason, tokens_of(choice)


def find_close(choice: Any) -> int:
    """How many tokens come before the closing tag; -1 if it has not come."""
    tokens = tokens_of(choice)
    return tokens.index(CLOSE) if CLOSE in tokens else -1


def joined(chunks: list[Any], name: str) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return "".join(getattr(choice.delta, name, None) or "" for choice in choices)


@pytest.mark.parametrize("budget", [0, 1, 2, 7, 20])
@pytest.mark.parametrize("content", ["hi", CONTENT], ids=["text", "image"])
def test_thinking_has_exactly_as_many_tokens_as_it_may(
    thinking: RealServer, end: ThinkingEnd, budget: int, content: Any
) -> None:
    free, cut = draw(thinking, content), draw(thinking, content, budget=budget)
    tokens = tokens_of(cut.choices[0])
    num_spent = budget + len(end.token_ids)
    assert CLOSE not in tokens_of(free.choices[0])[:budget]
    assert tokens[:budget] == tokens_of(free.choices[0])[:budget]
    assert tokens[budget:num_spent] == [e.token_bytes.decode() for e in end.logprobs]
    assert logprobs_of(cut.choices[0])[budget:num_spent] == [0.0] * len(end.token_ids)
    assert cut.choices[0].message.reasoning_content.endswith(SENTENCE)
    assert cut.choices[0].message.content
    num_reasoning = budget + end.token_ids.index(CLOSE_ID)
    assert cut.usage.completion_tokens_details.reasoning_tokens == num_reasoning
    assert cut.usage.completion_tokens == len(tokens) == LENGTH
    assert cut.usage.prompt_tokens == free.usage.prompt_tokens


@pytest.fixture(scope="module")
def freely_ended(thinking: RealServer) -> list[tuple[int, Any]]:
    """Seeds, and what is drawn with them if the thinking has no budget; it ends at some time."""
    drawn = [(seed, draw(thinking, seed=seed, **MIXED).choices[0]) for seed in range(8)]
    found = [
        (seed, choice) for seed, choice in drawn if 1 < find_close(choice) < MIXED["max_tokens"] - 1
    ]
    assert len({find_close(choice) for _, choice in found}) > 2
    return found


def test_a_budget_that_is_not_used_up_changes_nothing(
    thinking: RealServer, freely_ended: list[tuple[int, Any]]
) -> None:
    for seed, free in freely_ended:
        num_thought = find_close(free)
        for budget in (num_thought, num_thought + 1, 1000):
            bounded = draw(thinking, budget=budget, seed=seed, **MIXED).choices[0]
            assert told(bounded) == told(free)
            assert logprobs_of(bounded) == pytest.approx(logprobs_of(free), abs=1e-4)


def test_a_budget_of_one_token_less_cuts_the_thinking(
    thinking: RealServer, end: ThinkingEnd, freely_ended: list[tuple[int, Any]]
) -> None:
    for seed, free in freely_ended:
        budget = find_close(free) - 1
        options = {**MIXED, "max_tokens": budget + len(end.token_ids) + 1}
        cut = draw(thinking, budget=budget, seed=seed, **options).choices[0]
        assert cut.message.reasoning_content.endswith(SENTENCE)
        assert tokens_of(cut)[:budget] == tokens_of(free)[:budget]
        assert find_close(cut) == budget + end.token_ids.index(CLOSE_ID)


def test_cut_thinking_streams_as_it_is_answered(thinking: RealServer) -> None:
    options = {"thinks": None, "temperature": 1, "seed": 7, "max_tokens": LENGTH}
    body = {"thinking_budget": 9, "ignore_eos": True}
    whole = thinking.ask("hi", **options, extra_body=body)
    usage = {"include_usage": True}
    chunks = thinking.stream("hi", **options, extra_body=body, stream_options=usage)
    message = whole.choices[0].message
    assert joined(chunks, "reasoning_content") == message.reasoning_content
    assert joined(chunks, "content") == message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    details = [answer.usage.completion_tokens_details for answer in (chunks[-1], whole)]
    assert details[0] == details[1]


def test_choices_with_a_budget_are_the_answers_of_seeds_in_a_row(thinking: RealServer) -> None:
    several = draw(thinking, budget=5, n=3).choices
    alone = [draw(thinking, budget=5, seed=7 + index).choices[0] for index in range(3)]
    assert list(map(told, several)) == list(map(told, alone))
    assert len({told(choice)[1] for choice in several}) == 3


def test_requests_with_different_budgets_do_not_disturb_each_other(thinking: RealServer) -> None:
    budgets = (0, 3, None, 8, 30)
    alone = [told(draw(thinking, CONTENT, budget=budget).choices[0]) for budget in budgets]
    with ThreadPoolExecutor(len(budgets)) as threads:
        together = threads.map(lambda b: draw(thinking, CONTENT, budget=b), budgets)
    assert [told(answer.choices[0]) for answer in together] == alone


def test_answer_behind_cut_thinking_still_sees_the_image(thinking: RealServer) -> None:
    """Both images have the same size, so only the pixels tell them apart."""
    answers = [
        draw(thinking, [image(name), text("What?")], budget=0, temperature=0)
        for name in (FRAMES[0], FRAMES[4], FRAMES[0])
    ]
    assert len({answer.usage.prompt_tokens for answer in answers}) == 1
    first, other, again = (logprobs_of(answer.choices[0]) for answer in answers)
    assert first == pytest.approx(again, abs=1e-4)
    assert first != pytest.approx(other, abs=1e-2)


def test_stop_string_counts_behind_the_thinking_only(thinking: RealServer) -> None:
    free = draw(thinking, budget=9).choices[0].message
    stop = next(free.content[i : i + 2] for i in range(3, 30) if free.content[i : i + 2].isalnum())
    inserted = SENTENCE.split()[0]
    cut = draw(thinking, budget=9, stop=[stop, inserted]).choices[0]
    assert cut.message.reasoning_content == free.reasoning_content
    assert inserted in cut.message.reasoning_content
    assert cut.message.content == free.content[: free.content.index(stop)]


@pytest.mark.parametrize("room", [0, 1])
def test_thinking_that_leaves_no_room_for_an_answer_ends_as_length(
    thinking: RealServer, end: ThinkingEnd, room: int
) -> None:
    max_tokens = 5 + len(end.token_ids) + room
    answer = draw(thinking, budget=5, max_tokens=max_tokens)
    choice = answer.choices[0]
    assert choice.finish_reason == "length"
    assert len(tokens_of(choice)) == answer.usage.completion_tokens == (max_tokens if room else 5)
    assert (choice.message.content is not None) == bool(room)


def test_cut_thinking_leaves_nothing_in_the_engine(thinking: RealServer) -> None:
    draw(thinking, budget=4, n=2, max_tokens=1000)
    wait_until(lambda: thinking.sample("vllm:num_requests_running") == 0)
    assert thinking.sample("vllm:num_requests_waiting") == 0
    assert thinking.sample("qwen3vl_requests_in_flight") == 0
