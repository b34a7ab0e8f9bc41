"""The prompts of `/v1/completions`."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from server.body import parse_body
from server.errors import InvalidRequest
from server.prompt import PromptRenderer
from server.text_prompts import encode_prompts
from server.text_protocol import MAX_PROMPTS, CompletionRequest


@pytest.fixture(scope="module")
def renderer(instruct_checkpoint: Path) -> PromptRenderer:
    return PromptRenderer(str(instruct_checkpoint))


def encode(prompt: Any, renderer: PromptRenderer) -> list[tuple[int, ...]]:
    body = orjson.dumps({"model": "qwen", "prompt": prompt})
    prepared = encode_prompts(parse_body(body, CompletionRequest).request, renderer, 100)
    assert all(not one.expanded.items and not one.thinking.enabled for one in prepared)
    return [one.expanded.token_ids for one in prepared]


def test_a_prompt_is_a_text_or_its_tokens_or_several(renderer: PromptRenderer) -> None:
    one, other = renderer.encode_prompt("A circle"), renderer.encode_prompt("and a square")
    assert encode("A circle", renderer) == encode(one, renderer) == [one]
    assert encode(["A circle", "and a square"], renderer) == [one, other]
    assert encode([one, other], renderer) == [one, other]
    assert encode(["A circle", other], renderer) == [one, other]


@pytest.mark.parametrize(
    "prompt", ["", [], [""], [[]], [1.5], [True], [["a"]], [None], {}, 5, None, [[1, [2]]]]
)
def test_other_prompts_are_refused(prompt: object, renderer: PromptRenderer) -> None:
    with pytest.raises(InvalidRequest) as caught:
        encode(prompt, renderer)
    assert (caught.value.param or "").startswith("prompt")


def test_tokens_that_do_not_exist_are_refused(renderer: PromptRenderer) -> None:
    for wrong in (-1, 10**6, 2**63):
        with pytest.raises(InvalidRequest, match=r"`prompt\[1\]`"):
            encode([1, wrong], renderer)


def test_the_number_of_prompts_is_bounded(renderer: PromptRenderer) -> None:
    assert len(encode(["a"] * MAX_PROMPTS, renderer)) == MAX_PROMPTS
    with pytest.raises(InvalidRequest, match=str(MAX_PROMPTS)):
        encode(["a"] * (MAX_PROMPTS + 1), renderer)


async def test_a_prompt_has_no_patches(renderer: PromptRenderer) -> None:
    body = orjson.dumps({"model": "qwen", "prompt": "a"})
    (prepared,) = encode_prompts(parse_body(body, CompletionRequest).request, renderer, 100)
    assert await prepared.load_patches(["key"]) == {}
