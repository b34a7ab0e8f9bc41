"""Messages -> token ids. Renders the checkpoint's chat template and tokenises it safely.

What a user types is text, always: `<|im_end|>` or `<|image_pad|>` inside a message never becomes
the token of that name, nor do parts of it that the template joins, while the template's own markers
do. A mark that occurs nowhere else follows every typed character with which a special token could
begin; it is taken out again behind the template, where special tokens have been told apart.
"""

import dataclasses
import json
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from multimodal.checkpoint_files import read_checkpoint_json
from multimodal.items import LoadedMedia
from multimodal.layout import ExpandedPrompt, VisionTokens, expand_prompt
from multimodal.preprocessor_config import load_preprocessor_config
from server.engine import TokenLogprob
from server.errors import InvalidRequest
from server.reasoning import CLOSE_TAG, OPEN_TAG
from server.thinking import ModelKind
from server.thinking_budget import ThinkingEnd
from server.token_bytes import bytes_of

_PRIVATE_USE_START, _NUM_PRIVATE_USE = 0xE000, 6400
_MAX_CHARS_PER_TOKEN = 16  # of a whole prompt that is long; prose has 4 to 5
_SLICE_CHARS = 2**18  # tokenising takes some 400 bytes a character: more are counted in slices
_MAX_TOKENS_PER_CUT = 64  # that a cut between two slices may make of fewer
_PROBE = [{"role": "user", "content": "hi"}]
# Tags that models write into their answers, so assistant turns of the history keep them as tokens.
_ANSWER_TAGS = frozenset({"<think>", "</think>", "<tool_call>", "</tool_call>"})


class PromptRenderer:
    """Tokenizer and chat template of one checkpoint.

    Attributes:
        kind: read from the template: `thinking` opens the reasoning block in the prompt, `hybrid`
            has a switch (`enable_thinking`), `instruct` has neither.
        thinks_by_default: what the template does when the switch is not given.
        close_id: the token `</think>`; None if the checkpoint has none.
        generation_defaults: sampling defaults from the checkpoint's `generation_config.json`.
    """

    def __init__(
        self, model: str, revision: str | None = None, max_model_len: int | None = None
    ) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
        self._template = self._tokenizer.chat_template or _processor_template(model, revision)
        if not self._template:
            raise ValueError(f"{model} has no chat template")
        config = read_checkpoint_json(model, "config.json", revision)
        if config is None:
            raise FileNotFoundError(f"{model} has no config.json")
        self._vision_tokens = VisionTokens.from_config(config)
        self._vision_ids = frozenset(dataclasses.astuple(self._vision_tokens))
        self._merge_size = load_preprocessor_config(model, revision).merge_size
        self.generation_defaults = _generation_defaults(model, revision)
        self._encode_text = _plain_encoder(self._tokenizer)
        self._added_tokens: dict[str, int] = {
            token.content: token_id
            for token_id, token in self._tokenizer.added_tokens_decoder.items()
        }
        self._added_pattern = _any_of(self._added_tokens)
        # Typed text is marked here; answers of the history keep the tags that models write.
        starts = {token[0] for token in self._added_tokens}
        self._start_pattern = re.compile(f"[{re.escape(''.join(sorted(starts)))}]")
        self._answer_pattern = re.compile(
            f"(?:{_any_of(_ANSWER_TAGS).pattern})|({self._start_pattern.pattern})"
        )
        self._max_model_len = max_model_len
        self._max_chars = None
        if max_model_len is not None:
            longest = max_model_len * max(map(len, self._tokenizer.get_vocab()))
            usual = max(max_model_len * _MAX_CHARS_PER_TOKEN, _SLICE_CHARS)
            self._max_chars = min(longest, usual)
        self.close_id = self._added_tokens.get(CLOSE_TAG)
        self.kind, self.thinks_by_default = self._detect_kind()

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        thinking: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> tuple[int, ...]:
        """Render template-ready messages with a generation prompt; one placeholder per media part.

        The prompt ends in an open reasoning block for `thinking`, and in none otherwise: what the
        template leaves to the model, or cannot do, is written behind it.

        Args:
            messages: content is a string or a list of {"type": "text" | "image" | "video", ...}.
            tools: OpenAI's descriptions of functions.
        Raises: InvalidRequest if the template refuses the messages, or if they are so long that
            they cannot fit the context, which is seen before all of them is tokenised.
        """
        typed = "".join(_strings((messages, tools)))
        self._check_length(typed)
        guard = _unused_mark(typed)
        text = self._apply_template(
            [self._guarded(message, guard) for message in messages],
            thinking if self.kind == "hybrid" else None,
            [self._guarded(tool, guard) for tool in tools],
        )
        if self.kind != "instruct":
            text += _missing_block(text, thinking)
        self._check_count(text.replace(guard, ""))
        return tuple(self._encode(text, guard))

    def expand(self, token_ids: Sequence[int], media: Sequence[LoadedMedia]) -> ExpandedPrompt:
        """Give the media their placeholder tokens."""
        return expand_prompt(
            token_ids, media, self._vision_tokens, self._encode_text, self._merge_size
        )

    def encode_prompt(self, text: str) -> tuple[int, ...]:
        """A prompt without a template: special tokens are tokens, but for those of images and
        videos, which are text. Raises: InvalidRequest if it is too long to fit the context."""
        self._check_length(text)
        self._check_count(text)
        return tuple(self._encode(text, "", skipped=self._vision_ids))

    def check_tokens(self, token_ids: Sequence[int], param: str) -> None:
        """Raises: InvalidRequest for tokens that do not exist, or stand for images and videos."""
        self._refuse_tokens(token_ids, param, self._vision_ids)

    def decode_prompt(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special ones too. Raises: InvalidRequest for one that is none."""
        self._refuse_tokens(token_ids, "tokens", ())
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=False))

    def _refuse_tokens(
        self, token_ids: Sequence[int], param: str, refused: Collection[int]
    ) -> None:
        for index, token_id in enumerate(token_ids):
            if token_id in refused or not 0 <= token_id < len(self._tokenizer):
                name = f"{param}[{index}]"
                raise InvalidRequest(f"`{name}` is not a token of text", "invalid_value", name)

    def name_tokens(self, token_ids: Sequence[int]) -> list[str]:
        """The tokens as the vocabulary spells them."""
        return list(self._tokenizer.convert_ids_to_tokens(token_ids))

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of an answer's tokens."""
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=True))

    def end_thinking(self, sentence: str) -> ThinkingEnd:
        """What ends an open block early; the checkpoint must have one."""
        assert self.close_id is not None
        before, after = self._encode_text(f"\n\n{sentence}\n"), self._encode_text("\n\n")
        token_ids = (*before, self.close_id, *after) if sentence else (self.close_id, *after)
        logprobs = tuple(
            TokenLogprob(token_id, token, 0.0)
            for token_id, token in zip(token_ids, bytes_of(self._tokenizer, token_ids), strict=True)
        )
        return ThinkingEnd(token_ids, self.decode(token_ids), logprobs)

    def _detect_kind(self) -> tuple[ModelKind, bool]:
        default, on, off = (self._apply_template(_PROBE, switch) for switch in (None, True, False))
        if on != off:
            return "hybrid", default == on
        return ("thinking", True) if _opens_thinking(default) else ("instruct", False)

    def _apply_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        enable_thinking: bool | None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        switch = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages,
                tools=tools or None,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=True,
                **switch,
            )
        except TemplateError as error:
            raise InvalidRequest(
                f"the chat template refuses these messages: {error}", "invalid_messages", "messages"
            ) from error
        return text

    def _check_length(self, typed: str) -> None:
        if self._max_chars is not None and len(typed) > self._max_chars:
            raise InvalidRequest(
                f"the prompt has {len(typed)} characters; the context cannot hold more than "
                f"{self._max_chars}",
                "context_length_exceeded",
                "messages",
            )

    def _check_count(self, text: str) -> None:
        """Count the tokens of a long text slice by slice, special ones as a single letter.

        Raises: InvalidRequest as soon as there are too many.
        """
        if self._max_model_len is None or len(text) <= _SLICE_CHARS:
            return
        num_tokens = 0
        for start in range(0, len(text), _SLICE_CHARS):
            piece = self._added_pattern.sub("x", text[start : start + _SLICE_CHARS])
            num_tokens += len(self._encode_text(piece)) - _MAX_TOKENS_PER_CUT
            if num_tokens > self._max_model_len:
                raise InvalidRequest(
                    f"the prompt has more than the {self._max_model_len} tokens of the context",
                    "context_length_exceeded",
                    "messages",
                )

    def _guarded(self, message: Mapping[str, Any], guard: str) -> dict[str, Any]:
        """Text of an answer keeps its tags; the arguments of its calls are typed text to it."""
        is_answer = message.get("role") == "assistant"

        def mark(match: re.Match[str]) -> str:
            is_tag = match.re is self._answer_pattern and match.group(1) is None
            return match.group() if is_tag else match.group() + guard

        def walk(value: Any, pattern: re.Pattern[str]) -> Any:
            if isinstance(value, str):
                return pattern.sub(mark, value)
            if isinstance(value, list):
                return [walk(part, pattern) for part in value]
            if isinstance(value, dict):
                return {walk(key, pattern): walk(part, pattern) for key, part in value.items()}
            return value

        guarded = {}
        for key, value in message.items():
            keeps_tags = is_answer and key != "tool_calls"
            pattern = self._answer_pattern if keeps_tags else self._start_pattern
            guarded[key] = value if key == "role" else walk(value, pattern)
        return guarded

    def _encode(self, text: str, guard: str, skipped: Collection[int] = ()) -> list[int]:
        """Tokenise piece by piece between special tokens, as the tokenizer itself does."""
        token_ids: list[int] = []
        start = 0
        for match in self._added_pattern.finditer(text):
            token_id = self._added_tokens[match.group()]
            if token_id not in skipped:
                token_ids += self._encode_text(text[start : match.start()].replace(guard, ""))
                token_ids.append(token_id)
                start = match.end()
        return token_ids + self._encode_text(text[start:].replace(guard, ""))


def _plain_encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """Text -> ids by a tokenizer that knows no special token."""
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    description["added_tokens"] = []
    plain = Tokenizer.from_str(json.dumps(description))

    def encode(text: str) -> list[int]:
        # the batch form lets other threads run meanwhile
        return list(plain.encode_batch([text], add_special_tokens=False)[0].ids) if text else []

    return encode


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))


def _strings(value: Any) -> Iterator[str]:
    """Every string in nested lists and dicts, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield key
            yield from _strings(part)
    elif isinstance(value, Sequence):
        for part in value:
            yield from _strings(part)


def _unused_mark(text: str) -> str:
    """Random private-use characters that do not stand in `text` in this order; mostly one."""
    mark = ""
    while not mark or mark in text:
        mark += chr(_PRIVATE_USE_START + secrets.randbelow(_NUM_PRIVATE_USE))
    return mark


def _opens_thinking(rendered: str) -> bool:
    return rendered.rstrip().endswith(OPEN_TAG)


def _missing_block(rendered: str, thinking: bool) -> str:
    """What the end of a prompt lacks to have the block open, or closed."""
    if thinking:
        return "" if _opens_thinking(rendered) else f"{OPEN_TAG}\n"
    return f"\n{CLOSE_TAG}\n\n" if _opens_thinking(rendered) else ""


def _generation_defaults(model: str, revision: str | None) -> dict[str, Any]:
    """The sampling parameters that the checkpoint recommends; greedy for `do_sample: false`."""
    config = read_checkpoint_json(model, "generation_config.json", revision) or {}
    names = (
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
    )
    defaults = {name: config[name] for name in names if config.get(name) is not None}
    if config.get("do_sample") is False:
        defaults["temperature"] = 0.0
    return defaults


def _processor_template(model: str, revision: str | None) -> str | None:
    """Older checkpoints keep the template in a file of its own."""
    content = read_checkpoint_json(model, "chat_template.json", revision) or {}
    template: str | None = content.get("chat_template")
    return template
