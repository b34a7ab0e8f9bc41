"""Requests that are small for what reading them would take: refused before they are read."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from server.body import BodyModel, parse_body
from server.errors import InvalidRequest
from server.prompt import _SLICE_CHARS, PromptRenderer
from server.protocol import ChatCompletionRequest
from server.responses.protocol import ResponsesRequest
from tests.fake_backend import make_body

NUM_VALUES = 200_001
MAX_MODEL_LEN = 2**15
CALL = {"id": "1", "function": {"name": "f", "arguments": "TEXT"}}
ITEM = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "TEXT"}


@pytest.mark.parametrize("comma", ["\\u002c", "\\u002C"])
@pytest.mark.parametrize(
    ("model", "body"),
    [
        (
            ChatCompletionRequest,
            make_body(messages=[{"role": "assistant", "tool_calls": [CALL]}]),
        ),
        (ChatCompletionRequest, make_body(guided_json="TEXT")),
        (ResponsesRequest, {"model": "m", "input": [ITEM]}),
    ],
)
def test_values_in_a_text_count_even_if_their_commas_are_escaped(
    model: type[BodyModel], body: dict[str, Any], comma: str
) -> None:
    text = '{\\"a\\":[1' + (comma + "1") * NUM_VALUES + "]}"
    encoded = orjson.dumps(body).replace(b"TEXT", text.encode())
    with pytest.raises(InvalidRequest) as caught:
        parse_body(encoded, model)
    assert caught.value.code == "too_complex"


def test_letters_that_are_escaped_do_not_count() -> None:
    encoded = orjson.dumps(make_body("TEXT")).replace(b"TEXT", b"\\u00e9" * NUM_VALUES)
    request = parse_body(encoded, ChatCompletionRequest).request
    assert request.messages[0].content == "é" * NUM_VALUES


@pytest.fixture(scope="module")
def renderer(hybrid_checkpoint: Path) -> PromptRenderer:
    return PromptRenderer(str(hybrid_checkpoint), max_model_len=MAX_MODEL_LEN)


class Counter:
    """Counts what is tokenised."""

    def __init__(self, renderer: PromptRenderer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_chars = 0
        self._encode = renderer._encode_text
        monkeypatch.setattr(renderer, "_encode_text", self._count)

    def _count(self, text: str) -> list[int]:
        self.num_chars += len(text)
        return self._encode(text)


def with_numbers(num_numbers: int) -> list[dict[str, Any]]:
    parameters = {"a": [1.7976931348623157e308] * num_numbers}
    return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]


@pytest.mark.parametrize("text", ["a", " ", "<", "\u0315\u0300", "\u0f43", "a b "])
def test_a_text_that_cannot_fit_is_not_tokenised_as_a_whole(
    renderer: PromptRenderer, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """That takes memory of some 400 times its size."""
    counter = Counter(renderer, monkeypatch)
    message = {"role": "user", "content": text * (500_000 // len(text))}
    for render in (
        lambda: renderer.render([message], thinking=False),
        lambda: renderer.encode_prompt(message["content"]),
    ):
        with pytest.raises(InvalidRequest) as caught:
            render()
        assert caught.value.code == "context_length_exceeded"
    assert counter.num_chars <= 2 * _SLICE_CHARS


def test_numbers_that_the_template_writes_are_counted_too(
    renderer: PromptRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = Counter(renderer, monkeypatch)
    with pytest.raises(InvalidRequest) as caught:
        renderer.render(
            [{"role": "user", "content": "u"}], thinking=False, tools=with_numbers(100_000)
        )
    assert caught.value.code == "context_length_exceeded"
    assert counter.num_chars <= _SLICE_CHARS


def test_a_long_text_that_fits_is_tokenised_as_before(hybrid_checkpoint: Path) -> None:
    free = PromptRenderer(str(hybrid_checkpoint))
    text = "a short word <|im_end|> " * 15_000
    messages = [{"role": "user", "content": text}]
    tokens = free.render(messages, thinking=False)
    bound = PromptRenderer(str(hybrid_checkpoint), max_model_len=len(tokens) + 1)
    assert len(text) > _SLICE_CHARS
    assert bound.render(messages, thinking=False) == tokens
    assert bound.encode_prompt(text) == free.encode_prompt(text)
