"""Speculative decoding changes no greedy answer; what is not possible with it is refused."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint
from tests.draft_checkpoint import build_echo_drafter
from tests.e2e.real_media import image, text
from tests.e2e.real_server import RealServer, make_request, wait_until

pytestmark = pytest.mark.slow

_NUM_TOKENS = 40
_NUM_DRAFTED = 3
_QUESTIONS: Sequence[Any] = (
    "What is the capital of France?",
    [image(), text("What is this?")],
    [text("Again, with other words before it."), image(), text("What is this?")],
    [image(max_pixels=100_000), image(), text("Which one is larger?")],
)
_GREEDY: Mapping[str, Any] = {"max_tokens": _NUM_TOKENS, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its answers repeat a token about every second time."""
    spec = CheckpointSpec(num_layers=6, is_tied=True, initializer_range=0.1)
    return build_checkpoint(tmp_path_factory.mktemp("checkpoints") / "target", spec)


@pytest.fixture(scope="module")
def eagle3(target: Path) -> str:
    drafter = build_echo_drafter(target.with_name("drafter"), target)
    return json.dumps(
        {"method": "eagle3", "model": str(drafter), "num_speculative_tokens": _NUM_DRAFTED}
    )


def serving(target: Path, logs: Path, name: str, **options: Any) -> RealServer:
    return RealServer(target, logs / f"speculative-{name}", max_model_len=2048, **options)


@pytest.fixture(scope="module")
def plain(target: Path, logs: Path) -> Iterator[RealServer]:
    with serving(target, logs, "none") as server:
        yield server


@pytest.fixture(scope="module")
def expected(plain: RealServer) -> list[list[str]]:
    """The tokens of each answer without speculation, and a few more."""
    options = {**_GREEDY, "max_tokens": _NUM_TOKENS + _NUM_DRAFTED}
    return [tokens(plain.ask(question, logprobs=True, **options)) for question in _QUESTIONS]


def tokens(answer: Any) -> list[str]:
    return [str(token.bytes) for token in answer.choices[0].logprobs.content]


def assert_same_answers(server: RealServer, expected: list[list[str]]) -> None:
    for question, known in zip(_QUESTIONS, expected, strict=True):
        answer = server.ask(question, logprobs=True, **_GREEDY)
        assert tokens(answer) == known[:_NUM_TOKENS], question
        assert answer.usage.completion_tokens == _NUM_TOKENS


def counts(server: RealServer) -> tuple[float, float]:
    """Steps that drafted, and drafted tokens that were accepted."""
    names = ("drafts", "accepted_tokens")
    drafts, accepted = (server.sample(f"vllm:spec_decode_num_{name}_total") for name in names)
    return drafts, accepted


def count_repeats(known: Sequence[str]) -> tuple[int, int]:
    """What `counts` grow by in an answer if each draft is the last token, several times."""
    num_drafts = num_accepted = 0
    position = 1  # the first token comes with the prompt
    while position < _NUM_TOKENS:
        next_tokens = known[position : position + _NUM_DRAFTED]
        is_repeated = [token == known[position - 1] for token in next_tokens]
        num_same = (*is_repeated, False).index(False)
        num_drafts, num_accepted = num_drafts + 1, num_accepted + num_same
        position += num_same + 1
    return num_drafts, num_accepted


@pytest.fixture(scope="module")
def drafting(target: Path, eagle3: str, logs: Path) -> Iterator[RealServer]:
    with serving(target, logs, "eagle3", speculative_config=eagle3) as server:
        yield server


def test_eagle3_accepts_exactly_the_right_drafts_and_changes_no_answer(
    drafting: RealServer, expected: list[list[str]]
) -> None:
    """The drafter repeats the last token if it gets the target's own hidden states."""
    before = counts(drafting)
    assert_same_answers(drafting, expected)
    each = [count_repeats(known) for known in expected]
    growth = tuple(map(sum, zip(*each, strict=True)))
    assert 0 < growth[1] < _NUM_TOKENS * len(_QUESTIONS)
    after = tuple(a + b for a, b in zip(before, growth, strict=True))
    wait_until(lambda: counts(drafting) == after)  # recorded beside the answer
    # by now all pictures are known
    assert_same_answers(drafting, expected)
    assert drafting.sample("qwen3vl_vision_cache_hits_total") > 0


_LAYOUTS: Mapping[str, Mapping[str, Any]] = {
    # prefills are split within pictures, of which the device keeps none
    "chunks": {"max_num_batched_tokens": 48, "device_bytes": 1},
    "tensor": {"tensor_parallel_size": 2},
}


@pytest.mark.parametrize("layout", _LAYOUTS)
def test_eagle3_gives_the_same_in_other_layouts(
    layout: str, target: Path, eagle3: str, logs: Path, expected: list[list[str]]
) -> None:
    options = {**_LAYOUTS[layout], "speculative_config": eagle3}
    with serving(target, logs, layout, **options) as server:
        assert_same_answers(server, expected)
        assert_same_answers(server, expected)
        assert counts(server)[1] > 0


def test_prompt_lookup_gives_the_same(target: Path, logs: Path, expected: list[list[str]]) -> None:
    config = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}
    with serving(target, logs, "ngram", speculative_config=json.dumps(config)) as server:
        assert_same_answers(server, expected)
        assert counts(server)[1] > 0


def test_details_name_the_method(drafting: RealServer) -> None:
    details = drafting.http.get("/health", params={"details": "1"}).json()["details"]
    assert (details["speculative_method"], details["num_speculative_tokens"]) == ("eagle3", 3)


@pytest.mark.parametrize("field", [{"min_p": 0.1}, {"logit_bias": {"5": 1.0}}])
@pytest.mark.parametrize("stream", [False, True])
def test_what_vllm_cannot_do_is_a_400(
    field: dict[str, Any], stream: bool, drafting: RealServer
) -> None:
    body = make_request("hi", stream=stream, temperature=1, **field)
    answer = drafting.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_sampling"
    assert drafting.ask("still here").choices


def test_drawn_tokens_obey_each_requests_own_limits(drafting: RealServer) -> None:
    """Together in one batch; drawing among one token is greedy, whatever the temperature."""
    options: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 2.0, "extra_body": {"top_k": 1}},
        {"temperature": 1.0, "top_p": 1e-6},
        {"temperature": 2.0, "seed": 3},
        {"temperature": 1.0, "seed": 4, "extra_body": {"top_k": 20}},
    ]

    def ask(number: int) -> list[str]:
        given = {**_GREEDY, **options[number]}
        given["extra_body"] = {"ignore_eos": True, **options[number].get("extra_body", {})}
        return tokens(drafting.ask(_QUESTIONS[1], logprobs=True, **given))

    with ThreadPoolExecutor(len(options)) as pool:
        greedy, *same, hot, warm = pool.map(ask, range(len(options)))
    assert same == [greedy] * len(same)
    assert len({str(greedy), str(hot), str(warm)}) == 3


def test_a_seed_gives_the_same_answer_again(drafting: RealServer) -> None:
    def ask() -> list[str]:
        return tokens(drafting.ask("hi", logprobs=True, seed=7, **{**_GREEDY, "temperature": 1.0}))

    assert ask() == ask()


def test_a_format_holds(drafting: RealServer) -> None:
    regex = {"structured_outputs": {"regex": "[0-9]{3}"}}
    answer = drafting.ask("A number", extra_body=regex).choices[0].message.content
    assert len(answer) == 3 and answer.isdigit()


@pytest.mark.parametrize("budget", [1, 5])
def test_a_thinking_budget_holds(budget: int, drafting: RealServer, plain: RealServer) -> None:
    fields = {"enable_thinking": True, "thinking_budget": budget, "ignore_eos": True}
    options = {"thinks": None, "max_tokens": 200, "extra_body": fields}
    answers = [server.ask("hi", **options) for server in (drafting, plain)]
    messages = [answer.choices[0].message.model_dump_json() for answer in answers]
    assert messages[0] == messages[1]
    sentence = "Considering the limited time by the user"
    assert budget > 1 or sentence in answers[0].choices[0].message.reasoning_content


@pytest.mark.parametrize(
    "options",
    [
        {"presence_penalty": 1.0},
        {"frequency_penalty": 1.0},
        {"extra_body": {"repetition_penalty": 1.3}},
        {"extra_body": {"min_tokens": 20}},
    ],
)
def test_penalties_and_least_lengths_hold_over_drafts(
    options: dict[str, Any], drafting: RealServer, plain: RealServer
) -> None:
    given = {"max_tokens": _NUM_TOKENS, "logprobs": True, **options}
    answers = [server.ask(_QUESTIONS[1], **given) for server in (drafting, plain)]
    assert tokens(answers[0]) == tokens(answers[1])
