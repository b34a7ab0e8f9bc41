"""Chat template and tokenisation: equal to transformers where nobody types a special token."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from demo.chat_template import TemplateKind
from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint
from server.errors import InvalidRequest
from server.prompt import PromptRenderer, _unused_mark

CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "What is in the picture?"}],
    [{"role": "user", "content": "\n\nline\r\n  indented  \n"}],
    [{"role": "user", "content": "Zażółć gęślą jaźń 中文 🙂 a < b and c |> d <tag>"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ""}],
    [
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "image"}]},
        {"role": "assistant", "content": "A circle.", "reasoning_content": "round"},
        {
            "role": "user",
            "content": [{"type": "video"}, {"type": "text", "text": "two"}, {"type": "image"}],
        },
    ],
    [
        {"role": "user", "content": "go on"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nA square."},
        {"role": "user", "content": "\ue000 private \ue001 use"},
    ],
]


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TemplateKind], PromptRenderer]:
    def build(kind: TemplateKind) -> PromptRenderer:
        folder = tmp_path_factory.mktemp(kind)
        build_checkpoint(folder, CheckpointSpec(template=kind))
        return PromptRenderer(str(folder), max_model_len=64)

    renderers = {kind: build(kind) for kind in ("instruct", "thinking", "hybrid")}
    return renderers.__getitem__


@pytest.mark.parametrize("kind", ["instruct", "thinking", "hybrid"])
@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_token_ids_equal_transformers(
    kind: TemplateKind,
    messages: list[dict[str, Any]],
    renderer: Callable[[TemplateKind], PromptRenderer],
) -> None:
    ours = renderer(kind)
    text = ours._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    expected = ours._tokenizer.encode(text, add_special_tokens=False)
    assert list(ours.render(messages, enable_thinking=None).token_ids) == expected


@pytest.mark.parametrize("kind", ["instruct", "thinking", "hybrid"])
def test_the_kind_is_read_from_the_template(
    kind: TemplateKind, renderer: Callable[[TemplateKind], PromptRenderer]
) -> None:
    assert renderer(kind).kind == kind


@pytest.mark.parametrize(
    ("kind", "enable_thinking", "starts_in_reasoning", "may_reason"),
    [
        ("instruct", None, False, False),
        ("thinking", None, True, False),
        ("hybrid", None, False, True),
        ("hybrid", True, False, True),
        ("hybrid", False, False, False),
    ],
)
def test_where_the_answer_begins(
    kind: TemplateKind,
    enable_thinking: bool | None,
    starts_in_reasoning: bool,
    may_reason: bool,
    renderer: Callable[[TemplateKind], PromptRenderer],
) -> None:
    rendered = renderer(kind).render(CONVERSATIONS[0], enable_thinking=enable_thinking)
    assert rendered.starts_in_reasoning is starts_in_reasoning
    assert rendered.may_reason is may_reason


def test_messages_that_cannot_fit_are_refused_before_they_are_tokenised(
    renderer: Callable[[TemplateKind], PromptRenderer],
) -> None:
    ours = renderer("instruct")
    longest_token = max(map(len, ours._tokenizer.get_vocab()))
    messages = [{"role": "user", "content": "a" * (64 * longest_token + 1)}]
    with pytest.raises(InvalidRequest) as caught:
        ours.render(messages, enable_thinking=None)
    assert caught.value.code == "context_length_exceeded"
    assert str(64 * longest_token) in caught.value.message


def test_a_refusal_of_the_template_is_the_clients_fault(tmp_path: Path) -> None:
    build_checkpoint(tmp_path, CheckpointSpec())
    template = tmp_path / "chat_template.jinja"
    template.write_text(
        "{%- if messages[0].role != 'user' -%}{{- raise_exception('no system') }}{%- endif -%}"
    )
    ours = PromptRenderer(str(tmp_path))
    with pytest.raises(InvalidRequest, match="no system"):
        ours.render([{"role": "system", "content": "x"}], enable_thinking=None)


def test_the_mark_stands_nowhere_in_a_text_that_holds_all_private_characters() -> None:
    text = "".join(map(chr, range(0xE000, 0xF900)))
    assert _unused_mark(text) not in text


def test_sampling_defaults_come_from_the_checkpoint(
    renderer: Callable[[TemplateKind], PromptRenderer],
) -> None:
    defaults = renderer("hybrid").generation_defaults
    assert defaults == {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
