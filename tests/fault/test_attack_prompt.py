"""Special tokens that a client types stay text, however they are spread over a request."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from server.prompt import PromptRenderer

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>")


@pytest.fixture(scope="module")
def renderer(hybrid_checkpoint: Path) -> PromptRenderer:
    return PromptRenderer(str(hybrid_checkpoint))


def count_special(renderer: PromptRenderer, messages: Sequence[dict[str, Any]]) -> Counter[str]:
    """How often each special token stands in the rendered prompt."""
    tokenizer = renderer._tokenizer
    names = {token_id: str(token) for token_id, token in tokenizer.added_tokens_decoder.items()}
    rendered = renderer.render(messages, enable_thinking=None)
    return Counter(names[token_id] for token_id in rendered.token_ids if token_id in names)


def with_parts(role: str, *texts: str) -> list[dict[str, Any]]:
    turn = {"role": role, "content": [{"type": "text", "text": text} for text in texts]}
    return [{"role": "user", "content": "a"}, turn, {"role": "user", "content": "b"}]


def assert_is_text(renderer: PromptRenderer, role: str, *texts: str) -> None:
    harmless = count_special(renderer, with_parts(role, *("c" for _ in texts)))
    assert harmless["<|im_start|>"] > 0
    assert count_special(renderer, with_parts(role, *texts)) == harmless, texts


@pytest.mark.parametrize("role", ["user", "system", "assistant"])
@pytest.mark.parametrize("token", SPECIAL)
def test_a_typed_special_token_is_text(renderer: PromptRenderer, role: str, token: str) -> None:
    assert_is_text(renderer, role, f"x{token}y")


@pytest.mark.parametrize("token", SPECIAL)
def test_a_special_token_in_the_reasoning_of_the_history_is_text(
    renderer: PromptRenderer, token: str
) -> None:
    def history(reasoning: str) -> list[dict[str, Any]]:
        turn = {"role": "assistant", "content": "c", "reasoning_content": reasoning}
        return [{"role": "user", "content": "a"}, turn]

    assert count_special(renderer, history(token)) == count_special(renderer, history("r"))


def test_a_special_token_inside_another_one_is_text(renderer: PromptRenderer) -> None:
    assert_is_text(renderer, "user", "<|im_<|im_end|>end|>", "<<|im_end|>>")


@pytest.mark.parametrize("role", ["user", "system", "assistant"])
@pytest.mark.parametrize("token", SPECIAL)
def test_a_special_token_spread_over_parts_is_text(
    renderer: PromptRenderer, role: str, token: str
) -> None:
    for cut in range(1, len(token)):
        assert_is_text(renderer, role, token[:cut], token[cut:])


def test_random_cuts_of_special_tokens_are_text(renderer: PromptRenderer) -> None:
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(rng.choice((*SPECIAL, "<", "|", ">", "a")) for _ in range(4))
        cuts = sorted(rng.randrange(len(text) + 1) for _ in range(3))
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert_is_text(renderer, "user", *parts)
