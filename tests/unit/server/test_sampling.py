import orjson
import pytest

from server.engine import SamplingOptions
from server.errors import InvalidRequest
from server.sampling import fit_to_context, resolve_sampling, sample_choice
from tests.fake_backend import make_body, parse_chat


def resolve(defaults=(), **fields) -> SamplingOptions:
    request = parse_chat(orjson.dumps(make_body(**fields)))
    return resolve_sampling(request, dict(defaults), max_model_len=100)


def test_nothing_said_is_neutral():
    assert resolve() == SamplingOptions(max_tokens=100)


def test_checkpoint_defaults_apply():
    sampling = resolve({"temperature": 0.7, "top_k": 20, "presence_penalty": 1.5})
    assert (sampling.temperature, sampling.top_k, sampling.presence_penalty) == (0.7, 20, 1.5)


def test_request_beats_checkpoint_even_with_zero():
    assert resolve({"temperature": 0.7}, temperature=0).temperature == 0


@pytest.mark.parametrize("top_k", [-1, 0])
def test_top_k_can_be_switched_off(top_k):
    assert resolve({"top_k": 20}, top_k=top_k).top_k == 0


def test_logprobs_without_top_ask_for_the_drawn_token_only():
    assert resolve(logprobs=True).num_logprobs == 0
    assert resolve().num_logprobs is None


def test_logit_bias_keys_become_token_ids():
    assert resolve(logit_bias={"42": -100}).logit_bias == {42: -100.0}


def test_token_ids_that_end_an_answer_are_passed_on():
    assert resolve(stop_token_ids=[3, 1]).stop_token_ids == (3, 1)


def test_the_first_choice_is_the_answer_that_a_single_one_would_be():
    assert sample_choice(resolve(seed=5), 0) == resolve(seed=5)


def test_choices_have_seeds_in_a_row():
    assert [sample_choice(resolve(seed=5), index).seed for index in range(3)] == [5, 6, 7]
    assert sample_choice(resolve(seed=2**63 - 1), 1).seed == -(2**63)


def test_choices_without_a_seed_have_none():
    assert sample_choice(resolve(), 1).seed is None


def test_answer_may_fill_the_context_by_default():
    assert fit_to_context(resolve(), 30, 100).max_tokens == 70


def test_larger_limit_is_cut_to_the_context():
    assert fit_to_context(resolve(max_tokens=90), 30, 100).max_tokens == 70


def test_smaller_limit_is_kept():
    assert fit_to_context(resolve(max_tokens=5), 30, 100).max_tokens == 5


def test_prompt_that_fills_the_context_is_refused_with_both_numbers():
    with pytest.raises(InvalidRequest, match=r"123.*100") as caught:
        fit_to_context(resolve(), 123, 100)
    assert caught.value.code == "context_length_exceeded"


def test_min_tokens_must_fit():
    with pytest.raises(InvalidRequest) as caught:
        fit_to_context(resolve(min_tokens=80), 30, 100)
    assert caught.value.param == "min_tokens"
