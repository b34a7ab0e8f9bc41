"""Chat templates and tokens: what is typed stays text, each medium has one placeholder."""

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.body import parse_body
from server.conversation import build_conversation
from server.errors import InvalidRequest
from server.prompt import PromptRenderer
from server.protocol import ChatCompletionRequest
from server.token_bytes import bytes_of, token_bytes
from tests.fault.fuzz.bodies import CHAT
from tests.fault.fuzz.mutations import encoded_json

DEMO = Path(__file__).resolve().parents[3] / "demo" / "checkpoint"
_SPECIAL = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|image_pad|>", "<|video_pad|>",
    "<|vision_start|>", "<|vision_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>",
    "<tool_response>", "</tool_response>",
)  # fmt: skip
_FRAGMENTS = (
    *_SPECIAL,
    "<",
    "<|",
    "|>",
    "im_start",
    "image_pad|>",
    "\ue000",
    "\uf8ff",
    "{{ x }}",
    "{% raw %}",
)
texts = st.lists(st.sampled_from(_FRAGMENTS) | st.text(max_size=4), max_size=5).map("".join)


@pytest.fixture(scope="module", params=["demo", "hybrid", "thinking", "instruct"])
def renderer(request: pytest.FixtureRequest) -> PromptRenderer:
    if request.param == "demo":
        return PromptRenderer(str(DEMO))
    return PromptRenderer(str(request.getfixturevalue(f"{request.param}_checkpoint")))


def count_special(renderer: PromptRenderer, token_ids: Sequence[int]) -> Counter[int]:
    special = renderer._tokenizer.added_tokens_decoder
    return Counter(token for token in token_ids if token in special)


# A part of a message: text, or a medium.
parts = st.lists(texts | st.sampled_from([1, 2]), min_size=1, max_size=4)
turns = st.lists(st.tuples(st.sampled_from(["system", "user", "tool"]), parts), max_size=4)


def make_conversation(turns: Sequence[tuple[str, Sequence[str | int]]]) -> list[dict[str, Any]]:
    kinds = {1: "image", 2: "video"}
    messages: list[dict[str, Any]] = []
    for role, contents in turns:
        described = [
            {"type": "text", "text": c} if isinstance(c, str) else {"type": kinds[c]}
            for c in contents
            if isinstance(c, str) or role != "system"
        ]
        content = described or "s"
        messages.append({"role": role, "content": content, "tool_call_id": "c"})
    return [*messages, {"role": "user", "content": "u"}]


def blank(turns: Sequence[tuple[str, Sequence[str | int]]]) -> list[tuple[str, list[str | int]]]:
    """The same turns with harmless text."""
    return [(role, ["a" if isinstance(c, str) else c for c in cs]) for role, cs in turns]


def test_typed_text_makes_no_special_tokens(renderer: PromptRenderer) -> None:
    @given(turns, st.booleans(), texts)
    def check(turns: Any, thinking: bool, description: str) -> None:
        thinking = thinking and renderer.kind != "instruct"

        def render(turns: Any, description: str) -> Counter[int]:
            function = {"name": "f", "description": description, "parameters": {description: "a"}}
            tools = [{"type": "function", "function": function}]
            messages = make_conversation(turns)
            return count_special(
                renderer, renderer.render(messages, thinking=thinking, tools=tools)
            )

        assert render(turns, description) == render(blank(turns), "a")

    check()


def test_each_medium_has_one_placeholder(renderer: PromptRenderer) -> None:
    vision = renderer._vision_tokens

    @given(encoded_json(CHAT))
    def check(body: bytes) -> None:
        with suppress(InvalidRequest):
            conversation = build_conversation(parse_body(body, ChatCompletionRequest).request)
            tokens = renderer.render(
                conversation.messages,
                thinking=renderer.kind != "instruct",
                tools=conversation.tools,
            )
            num_images = sum(medium.kind == "image" for medium in conversation.media)
            counted = Counter(tokens)
            assert counted[vision.image_pad] == num_images
            assert counted[vision.video_pad] == len(conversation.media) - num_images

    check()


def test_a_refusal_of_the_template_is_short(renderer: PromptRenderer) -> None:
    roles = st.sampled_from(["system", "user", "assistant", "tool", "robot"])

    @given(st.lists(st.tuples(roles, texts), min_size=1, max_size=4))
    def check(turns: Sequence[tuple[str, str]]) -> None:
        messages = [{"role": role, "content": text} for role, text in turns]
        try:
            renderer.render(messages, thinking=False)
        except InvalidRequest as error:
            assert len(error.message) < 300

    check()


def test_the_bytes_of_tokens_are_the_text(renderer: PromptRenderer) -> None:
    known = token_bytes(renderer._tokenizer)

    @given(st.text(max_size=20) | texts)
    def check(text: str) -> None:
        token_ids = renderer._encode_text(text)
        assert b"".join(known[token] for token in token_ids) == b"".join(
            bytes_of(renderer._tokenizer, token_ids)
        )
        joined = b"".join(known[token] for token in token_ids).decode()
        assert joined == unicodedata.normalize("NFC", text)

    check()


def test_any_tokens_are_text_or_refused(renderer: PromptRenderer) -> None:
    ids = st.integers(-1, len(renderer._tokenizer) + 1) | st.integers()

    @given(st.lists(ids, max_size=6))
    def check(token_ids: list[int]) -> None:
        with suppress(InvalidRequest):
            renderer.check_tokens(token_ids, "prompt")
            assert not renderer._vision_ids & set(token_ids)
        with suppress(InvalidRequest):
            json.dumps(renderer.decode_prompt(token_ids))
            renderer.name_tokens(token_ids)

    check()
