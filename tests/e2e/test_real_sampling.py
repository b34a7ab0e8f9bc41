"""Sampling options do with the real engine what they promise."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from transformers import AutoTokenizer

from tests.e2e.real_server import RealServer, wait_until

QUESTION = "What is it?"
LENGTH = 40


@pytest.fixture(scope="module")
def tokenizer(hybrid_checkpoint: Path):
    return AutoTokenizer.from_pretrained(hybrid_checkpoint)


@pytest.fixture(scope="module")
def greedy(hybrid: RealServer) -> str:
    return contents(hybrid.ask(QUESTION, max_tokens=LENGTH))[0]


def contents(answer) -> list[str]:
    return [choice.message.content for choice in answer.choices]


def find_stop(greedy: str) -> str:
    return next(greedy[i : i + 3] for i in range(10, LENGTH) if greedy[i : i + 3].isalpha())


def test_greedy_answer_is_reproducible(hybrid: RealServer, greedy):
    assert contents(hybrid.ask(QUESTION, max_tokens=LENGTH)) == [greedy]


def test_seed_makes_a_drawn_answer_reproducible(hybrid: RealServer):
    def draw(seed: int) -> str:
        return contents(hybrid.ask(QUESTION, temperature=1, seed=seed, max_tokens=LENGTH))[0]

    assert draw(5) == draw(5)
    assert len({draw(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize("options", [{"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6}])
def test_option_that_leaves_one_token_gives_the_greedy_answer(hybrid: RealServer, greedy, options):
    answer = hybrid.ask(QUESTION, temperature=1.5, max_tokens=LENGTH, extra_body=options)
    assert contents(answer) == [greedy]


def test_stop_string_ends_the_answer_before_itself(hybrid: RealServer, greedy):
    stop = find_stop(greedy)
    answer = hybrid.ask(QUESTION, stop=stop, max_tokens=LENGTH)
    assert contents(answer) == [greedy[: greedy.index(stop)]]
    assert answer.choices[0].finish_reason == "stop"


def test_stop_string_never_appears_in_a_stream(hybrid: RealServer, greedy):
    stop = next(greedy[i : i + 5] for i in range(10, LENGTH) if greedy[i : i + 5].isascii())
    chunks = hybrid.stream(QUESTION, stop=[stop], max_tokens=LENGTH)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed == greedy[: greedy.index(stop)]


def test_two_choices_are_drawn_independently_and_counted_together(hybrid: RealServer):
    options = {"n": 2, "temperature": 1, "seed": 3, "extra_body": {"ignore_eos": True}}
    answer = hybrid.ask(QUESTION, max_tokens=LENGTH, **options)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert len(set(contents(answer))) == 2
    assert answer.usage.completion_tokens == 2 * LENGTH


def test_choices_of_a_stream_are_those_of_the_whole_answer(hybrid: RealServer):
    options = {"n": 2, "temperature": 1, "seed": 3, "max_tokens": LENGTH}
    streamed = {0: "", 1: ""}
    for chunk in hybrid.stream(QUESTION, **options):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert list(streamed.values()) == contents(hybrid.ask(QUESTION, **options))


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_token_limit_cuts_the_answer(hybrid: RealServer, name):
    limits = {"max_tokens": openai.NOT_GIVEN, name: 5}
    answer = hybrid.ask(QUESTION, extra_body={"ignore_eos": True}, **limits)
    assert answer.usage.completion_tokens == 5
    assert answer.choices[0].finish_reason == "length"


def test_logit_bias_forces_a_token(hybrid: RealServer, tokenizer):
    token_id = tokenizer.convert_tokens_to_ids("a")
    assert contents(hybrid.ask(QUESTION, logit_bias={token_id: 100}, max_tokens=7)) == ["a" * 7]


def test_logit_bias_forbids_a_token(hybrid: RealServer, tokenizer):
    def first_token(**options):
        answer = hybrid.ask("Say it.", logprobs=True, max_tokens=1, **options)
        return answer.choices[0].logprobs.content[0]

    best = first_token().token
    forbidden = {tokenizer.convert_tokens_to_ids(tokenizer.tokenize(best)[0]): -100}
    assert best and first_token(logit_bias=forbidden).token != best


def test_end_of_turn_ends_the_answer(hybrid: RealServer, tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    answer = hybrid.ask(QUESTION, logit_bias={end: 100})
    assert contents(answer) == [""]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 1


def test_logit_bias_beyond_the_vocabulary_is_refused(hybrid: RealServer):
    with pytest.raises(openai.BadRequestError, match="99999"):
        hybrid.ask(QUESTION, logit_bias={99999: 1})


def test_penalties_change_a_repeating_answer(hybrid: RealServer, greedy):
    for penalty in (
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"extra_body": {"repetition_penalty": 2.0}},
    ):
        assert contents(hybrid.ask(QUESTION, max_tokens=LENGTH, **penalty)) != [greedy]


def test_greedy_token_is_the_first_of_the_sorted_alternatives(hybrid: RealServer):
    answer = hybrid.ask(QUESTION, logprobs=True, top_logprobs=5)
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    for entry in entries:
        top = [alternative.logprob for alternative in entry.top_logprobs]
        assert len(top) == 5 and top == sorted(top, reverse=True)
        assert (entry.token, entry.logprob) == (entry.top_logprobs[0].token, top[0])
        assert sum(map(math.exp, top)) <= 1


def test_drawn_token_has_its_logprob_beside_the_alternatives(hybrid: RealServer):
    options = {"temperature": 2, "seed": 1, "max_tokens": LENGTH}
    entries = hybrid.ask(QUESTION, logprobs=True, top_logprobs=2, **options).choices[0]
    beyond = [e for e in entries.logprobs.content if e.logprob < e.top_logprobs[-1].logprob]
    assert beyond
    assert all(len(entry.top_logprobs) == 2 for entry in entries.logprobs.content)


def test_logprobs_of_a_stream_are_those_of_the_whole_answer(hybrid: RealServer):
    whole = hybrid.ask(QUESTION, logprobs=True, top_logprobs=1).choices[0].logprobs.content
    chunks = hybrid.stream(QUESTION, logprobs=True, top_logprobs=1)
    streamed = [
        entry
        for chunk in chunks
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert [entry.token for entry in streamed] == [entry.token for entry in whole]
    assert [e.logprob for e in streamed] == pytest.approx([e.logprob for e in whole], abs=1e-4)


def test_bytes_of_the_tokens_make_up_the_answer(hybrid: RealServer, tokenizer, greedy):
    """All but special tokens, which are no text."""
    entries = hybrid.ask(QUESTION, logprobs=True, max_tokens=LENGTH).choices[0].logprobs.content
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    answer = b"".join(bytes(entry.bytes) for entry in entries if entry.token not in special)
    assert answer.decode(errors="replace") == greedy


def draw(server: RealServer, **options):
    """A seeded answer at temperature 1, as long as may be."""
    options = {"temperature": 1, "seed": 3, "max_tokens": LENGTH, **options}
    return server.ask(QUESTION, **{"extra_body": {"ignore_eos": True}, **options})


def test_choices_are_the_answers_of_seeds_in_a_row(hybrid: RealServer):
    several = contents(draw(hybrid, n=3))
    assert several == [contents(draw(hybrid, seed=3 + index))[0] for index in range(3)]


def test_greedy_choices_are_the_same(hybrid: RealServer, greedy):
    assert contents(hybrid.ask(QUESTION, n=2, max_tokens=LENGTH)) == [greedy, greedy]


def test_logprobs_of_choices_are_their_own(hybrid: RealServer):
    choices = draw(hybrid, n=2, logprobs=True).choices
    for index, choice in enumerate(choices):
        (alone,) = draw(hybrid, seed=3 + index, logprobs=True).choices
        logprobs = [[e.logprob for e in c.logprobs.content] for c in (choice, alone)]
        assert len(logprobs[0]) == LENGTH
        assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-4)


def test_stop_string_can_be_part_of_the_answer(hybrid: RealServer, greedy):
    stop = find_stop(greedy)
    body = {"include_stop_str_in_output": True}
    answer = hybrid.ask(QUESTION, stop=stop, max_tokens=LENGTH, extra_body=body)
    assert contents(answer) == [greedy[: greedy.index(stop)] + stop]


def test_stop_string_counts_from_the_least_number_of_tokens_on(hybrid: RealServer, greedy):
    body = {"min_tokens": LENGTH - 1}
    answer = hybrid.ask(QUESTION, stop=find_stop(greedy), max_tokens=LENGTH, extra_body=body)
    assert contents(answer) == [greedy]


def test_stop_string_ends_the_work_of_the_engine(hybrid: RealServer, greedy):
    wait_until(lambda: hybrid.sample("vllm:num_requests_running") == 0)
    options = {"stop": find_stop(greedy), "max_tokens": 30_000, "extra_body": {"ignore_eos": True}}
    answer = hybrid.ask(QUESTION, **options)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens < LENGTH
    wait_until(lambda: hybrid.sample("vllm:num_requests_running") == 0)


def test_stop_string_of_one_choice_leaves_the_other(hybrid: RealServer):
    first, second = contents(draw(hybrid, n=2))
    stop = next(first[i : i + 4] for i in range(5, len(first)) if first[i : i + 4] not in second)
    answer = draw(hybrid, n=2, stop=stop)
    assert contents(answer) == [first[: first.index(stop)], second]
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "length"]


def test_token_that_ends_an_answer(hybrid: RealServer, tokenizer):
    entries = hybrid.ask(QUESTION, logprobs=True, max_tokens=LENGTH).choices[0].logprobs.content
    token_ids = [id_of(tokenizer, entry) for entry in entries]
    end = next(i for i in range(5, LENGTH) if token_ids[i] not in (None, *token_ids[:i]))
    body = {"stop_token_ids": [token_ids[end]]}
    answer = hybrid.ask(QUESTION, logprobs=True, max_tokens=LENGTH, extra_body=body)
    assert answer.usage.completion_tokens == end + 1
    assert answer.choices[0].finish_reason == "stop"


def id_of(tokenizer, entry) -> int | None:
    """The token with these bytes; None where several have them."""
    found = [i for i in range(len(tokenizer)) if tokenizer.decode([i]) == entry.token]
    return found[0] if len(found) == 1 else None


def test_priorities_are_accepted_and_change_no_answer(hybrid: RealServer, greedy):
    def ask(priority: int) -> str:
        body = {"priority": priority}
        return contents(hybrid.ask(QUESTION, max_tokens=LENGTH, extra_body=body))[0]

    priorities = (5, -5, 0, 2**31 - 1)
    with ThreadPoolExecutor(len(priorities)) as threads:
        assert list(threads.map(ask, priorities)) == [greedy] * len(priorities)
