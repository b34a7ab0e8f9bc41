"""What the streams of `benchmarks.stream` carry: from the request to what the client must get.

Imports the standard library only: both sides use it, each in its own environment.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Literal, get_args

Variant = Literal["content", "thinking", "tools", "logprobs", "usage", "merged"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)

MODEL_NAME = "benchmark"
NUM_TOP_LOGPROBS = 5
NUM_UNTIMED = 32  # outputs of each stream before the clock starts: role, head of a call, caches
CLOSE_THINKING = "</think>"
OPEN_CALL, CLOSE_CALL = "<tool_call>", "</tool_call>"
TAGS = (CLOSE_THINKING, OPEN_CALL, CLOSE_CALL)

_MERGED_TOKENS = 8  # of each output of the variant `merged`
_TEXT = """The harbour is small and quiet: three fishing boats are tied to the pier, and a man in a
yellow coat is mending a net.

- **Left**: a blue van, half in the shade; its number plate ends in 47.
- **Right**: the café, with a sign that says “Zum Anker”. Nobody sits outside: it has rained.
"""
# 3.9 characters each in `_TEXT`; an escape of JSON is one
_TOKEN = re.compile(r"\\.|\s?\w{1,7}|\s?[^\w\s\\]+|\s+")
_FUNCTION = "write_file"
_PATH = "notes.md"
_CALL_END = ('"}', "}\n", CLOSE_CALL)


@dataclass(slots=True)
class Message:
    """The message of one answer, put together from its stream."""

    reasoning: str = ""
    content: str = ""
    arguments: str = ""  # of its tool call: JSON

    def add(self, delta: dict[str, Any]) -> None:
        self.reasoning += delta.get("reasoning") or ""
        self.content += delta.get("content") or ""
        for call in delta.get("tool_calls") or ():
            self.arguments += call["function"].get("arguments") or ""

    def is_like(self, other: "Message") -> bool:
        """Whether both say the same. Servers differ in the whitespace that they drop at the ends
        of the reasoning and the content, and JSON may be written in several ways."""
        texts = zip((self.reasoning, self.content), (other.reasoning, other.content), strict=True)
        mine, its = (json.loads(message.arguments or "{}") for message in (self, other))
        return mine == its and all(one.strip() == another.strip() for one, another in texts)


@dataclass(frozen=True, slots=True)
class Work:
    """Streams that run at once. `num_outputs`: of each one, while the clock runs."""

    variant: Variant
    num_streams: int
    num_outputs: int

    @property
    def num_chunks(self) -> int:
        return self.num_streams * self.num_outputs

    def request_body(self) -> bytes:
        """The request of each stream; both sides take it."""
        body: dict[str, Any] = {
            "model": MODEL_NAME,
            "messages": [{"role": "user", "content": "Go on."}],
            "stream": True,
            "chat_template_kwargs": {"enable_thinking": self.variant == "thinking"},
        }
        if self.variant == "tools":
            strings = {name: {"type": "string"} for name in ("path", "text")}
            function = {"name": _FUNCTION, "parameters": {"type": "object", "properties": strings}}
            body |= {"tools": [{"type": "function", "function": function}], "tool_choice": "auto"}
        if self.variant == "logprobs":
            body |= {"logprobs": True, "top_logprobs": NUM_TOP_LOGPROBS}
        if self.variant == "usage":
            body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        return json.dumps(body).encode()

    def outputs(self) -> list[tuple[str, ...]]:
        """The texts of the tokens of each output; the end of the answer is one more, without."""
        size = _MERGED_TOKENS if self.variant == "merged" else 1
        tokens = self._tokens((NUM_UNTIMED + self.num_outputs) * size)
        return [tuple(tokens[start : start + size]) for start in range(0, len(tokens), size)]

    def expected(self) -> Message:
        text = "".join(token for output in self.outputs() for token in output)
        if self.variant == "tools":
            call = json.loads(text.removeprefix(OPEN_CALL).removesuffix(CLOSE_CALL))
            return Message(arguments=json.dumps(call["arguments"]))
        reasoning, _, content = text.rpartition(CLOSE_THINKING)
        return Message(reasoning, content)

    def _tokens(self, count: int) -> list[str]:
        if self.variant == "thinking":
            reasoning = [*_cut(_TEXT, count // 2), "\n", CLOSE_THINKING, "\n\n"]
            return [*reasoning, *_cut(_TEXT, count - len(reasoning))]
        if self.variant == "tools":
            head = f'\n{{"name": "{_FUNCTION}", "arguments": {{"path": "{_PATH}", "text": "'
            start = [OPEN_CALL, *_TOKEN.findall(head)]
            text = json.dumps(_TEXT, ensure_ascii=False)[1:-1]
            return [*start, *_cut(text, count - len(start) - len(_CALL_END)), *_CALL_END]
        return _cut(_TEXT, count)


def _cut(text: str, count: int) -> list[str]:
    """The first tokens of the text over and over."""
    return list(islice(cycle(_TOKEN.findall(text)), count))


def read_message(bodies: Sequence[bytes]) -> Message:
    """Read the server-sent events of one answer. Raises: RuntimeError if it has no proper end."""
    message, events = Message(), b"".join(bodies).split(b"\n\n")
    if events[-2:] != [b"data: [DONE]", b""]:
        raise RuntimeError(f"the stream does not end properly: {events[-2:]}")
    for event in events[:-2]:
        for choice in json.loads(event.removeprefix(b"data: ")).get("choices", ()):
            message.add(choice["delta"])
    return message
