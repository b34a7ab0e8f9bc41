"""Chat template and tokenisation: equal to transformers where nobody types a special token."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from demo.chat_template import TemplateKind
from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint
from server.errors import InvalidRequest
from server.prompt import PromptRenderer, _unused_mark

KINDS: tuple[TemplateKind, ...] = ("instruct", "thinking", "hybrid")
Renderers = Callable[[TemplateKind], PromptRenderer]


def call(name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": "call_1", "type": "function", "function": function}


TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "find",
            "description": 'Finds <a "thing"> & shows it — gęś 中文.',
            "parameters": {
                "type": "object",
                "properties": {"what": {"type": "string", "enum": ["a <b>", "c"]}},
                "required": ["what"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}},
]
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
    [
        {"role": "system", "content": "Use tools."},
        {"role": "user", "content": "Find both."},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "I look.",
            "tool_calls": [call("find", what="a <b>", at=[1.5, None]), call("now")],
        },
        {"role": "tool", "content": "nothing < 3", "tool_call_id": "call_1"},
        {
            "role": "tool",
            "content": [{"type": "image"}, {"type": "text", "text": "seen"}, {"type": "video"}],
            "tool_call_id": "call_2",
        },
        {"role": "assistant", "content": "Again.", "tool_calls": [call("find", what="ż")]},
        {"role": "tool", "content": "ok", "tool_call_id": "call_3"},
    ],
]


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderers:
    def build(kind: TemplateKind) -> PromptRenderer:
        folder = tmp_path_factory.mktemp(kind)
        build_checkpoint(folder, CheckpointSpec(template=kind))
        return PromptRenderer(str(folder), max_model_len=64)

    renderers = {kind: build(kind) for kind in KINDS}
    return renderers.__getitem__


def render_by_transformers(
    ours: PromptRenderer,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]],
    appended: str,
    **switch: bool,
) -> list[int]:
    text = ours._tokenizer.apply_chat_template(
        messages, tools=tools or None, tokenize=False, add_generation_prompt=True, **switch
    )
    return list(ours._tokenizer.encode(text + appended, add_special_tokens=False))


@pytest.mark.parametrize(
    ("kind", "thinking", "switch", "appended"),
    [
        ("instruct", False, {}, ""),
        ("instruct", True, {}, ""),
        ("thinking", True, {}, ""),
        ("thinking", False, {}, "\n</think>\n\n"),
        ("hybrid", True, {"enable_thinking": True}, "<think>\n"),
        ("hybrid", False, {"enable_thinking": False}, ""),
    ],
)
@pytest.mark.parametrize("tools", [[], TOOLS], ids=["", "tools"])
@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_token_ids_equal_transformers(
    kind: TemplateKind,
    thinking: bool,
    switch: dict[str, bool],
    appended: str,
    tools: list[dict[str, Any]],
    messages: list[dict[str, Any]],
    renderer: Renderers,
) -> None:
    ours = renderer(kind)
    expected = render_by_transformers(ours, messages, tools, appended, **switch)
    assert list(ours.render(messages, thinking=thinking, tools=tools)) == expected


def test_tools_are_in_the_prompt(renderer: Renderers) -> None:
    """The comparison above would hold for a template that forgets them."""
    ours = renderer("instruct")
    text = ours.decode(ours.render(CONVERSATIONS[-1], thinking=False, tools=TOOLS))
    assert '"description": "Finds <a \\"thing\\"> & shows it — gęś 中文."' in text
    assert (
        '<tool_call>\n{"name": "find", "arguments": {"what": "a <b>", "at": [1.5, null]}}' in text
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_read_from_the_template(kind: TemplateKind, renderer: Renderers) -> None:
    assert renderer(kind).kind == kind


@pytest.mark.parametrize(
    ("kind", "thinks_by_default"), [("instruct", False), ("thinking", True), ("hybrid", True)]
)
def test_what_the_template_does_by_default(
    kind: TemplateKind, thinks_by_default: bool, renderer: Renderers
) -> None:
    assert renderer(kind).thinks_by_default is thinks_by_default


OPENS = "<think>\n"
CLOSED = "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("on", "off", "default"),
    [(OPENS, CLOSED, "on"), (OPENS, "", "off"), ("", CLOSED, "on"), ("", CLOSED, "off")],
)
def test_a_switch_may_work_in_any_way(tmp_path: Path, on: str, off: str, default: str) -> None:
    """The prompt ends in an open block when thinking, and in none otherwise."""
    build_checkpoint(tmp_path, CheckpointSpec())
    condition = {"on": "enable_thinking | default(true)", "off": "enable_thinking"}[default]
    source = (
        f"{{%- if {condition} -%}}{{{{- {on!r} }}}}{{%- else -%}}{{{{- {off!r} }}}}{{%- endif -%}}"
    )
    (tmp_path / "chat_template.jinja").write_text(source)
    ours = PromptRenderer(str(tmp_path))
    assert (ours.kind, ours.thinks_by_default) == ("hybrid", default == "on")
    rendered = [
        ours.decode(ours.render(CONVERSATIONS[0], thinking=thinking)) for thinking in (True, False)
    ]
    assert rendered == [OPENS, off]


def test_messages_that_cannot_fit_are_refused_before_they_are_tokenised(
    renderer: Renderers,
) -> None:
    ours = renderer("instruct")
    longest_token = max(map(len, ours._tokenizer.get_vocab()))
    messages = [{"role": "user", "content": "a" * (64 * longest_token + 1)}]
    with pytest.raises(InvalidRequest) as caught:
        ours.render(messages, thinking=False)
    assert caught.value.code == "context_length_exceeded"
    assert str(64 * longest_token) in caught.value.message


def test_tools_count_among_what_must_fit(renderer: Renderers) -> None:
    ours = renderer("instruct")
    function = {"name": "f", "parameters": {"x" * 100_000: {}}}
    with pytest.raises(InvalidRequest) as caught:
        ours.render(
            CONVERSATIONS[0], thinking=False, tools=[{"type": "function", "function": function}]
        )
    assert caught.value.code == "context_length_exceeded"


def test_a_refusal_of_the_template_is_the_clients_fault(tmp_path: Path) -> None:
    build_checkpoint(tmp_path, CheckpointSpec())
    template = tmp_path / "chat_template.jinja"
    template.write_text(
        "{%- if messages[0].role != 'user' -%}{{- raise_exception('no system') }}{%- endif -%}"
    )
    ours = PromptRenderer(str(tmp_path))
    with pytest.raises(InvalidRequest, match="no system"):
        ours.render([{"role": "system", "content": "x"}], thinking=False)


def test_the_mark_stands_nowhere_in_a_text_that_holds_all_private_characters() -> None:
    text = "".join(map(chr, range(0xE000, 0xF900)))
    assert _unused_mark(text) not in text


def test_sampling_defaults_come_from_the_checkpoint(renderer: Renderers) -> None:
    defaults = renderer("hybrid").generation_defaults
    assert defaults == {"temperature": 0.7, "top_p": 0.8, "top_k": 20}


def test_a_prompt_without_template_has_special_tokens_but_none_of_media(
    renderer: Renderers,
) -> None:
    ours = renderer("instruct")
    text = "<|im_start|>user\nhi <tool_call><|image_pad|>"
    token_ids = ours.encode_prompt(text)
    tokens = ours._tokenizer.convert_ids_to_tokens(token_ids)
    assert {"<|im_start|>", "<tool_call>"} <= set(tokens)
    assert "<|image_pad|>" not in tokens
    assert ours._tokenizer.decode(token_ids) == text


def test_tokens_of_a_prompt_exist_and_are_none_of_media(renderer: Renderers) -> None:
    ours = renderer("instruct")
    num_tokens = len(ours._tokenizer)
    ours.check_tokens([0, num_tokens - 1], "prompt")
    image_pad = ours._tokenizer.convert_tokens_to_ids("<|image_pad|>")
    for wrong in (-1, num_tokens, image_pad):
        with pytest.raises(InvalidRequest, match=r"`prompt\[1\]`"):
            ours.check_tokens([0, wrong], "prompt")


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        ("", "</think>\n\n"),
        ("Enough.", "\n\nEnough.\n</think>\n\n"),
        ("够了 🙂", "\n\n够了 🙂\n</think>\n\n"),
    ],
)
def test_thinking_is_ended_by_the_sentence_and_the_token(
    sentence: str, text: str, renderer: Renderers
) -> None:
    ours = renderer("thinking")
    end = ours.end_thinking(sentence)
    assert end.text == text
    assert list(end.token_ids) == ours._tokenizer.encode(text, add_special_tokens=False)
    assert end.token_ids.count(ours.close_id) == 1
    assert tuple(token.token_id for token in end.logprobs) == end.token_ids
    assert b"".join(token.token_bytes for token in end.logprobs).decode() == text
