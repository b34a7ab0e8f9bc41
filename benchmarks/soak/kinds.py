"""The kinds of requests of a soak: bodies that differ every time, and the answers they must get."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from benchmarks.client import MODEL_NAME
from benchmarks.pictures import data_url, encode, photo
from benchmarks.workload.clip import write_mp4

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
_WORDS = ("how", "many", "red", "circles", "are", "left", "of", "large", "blue", "squares", "shown")
_SIDES = (32, 64, 96)
_NUM_KNOWN = 12
_NUM_SCHEMAS = 64
_CLIP_FRAMES = 8
_PREFIX_CHARS = len("data:image/jpeg;base64,")
# how a client behaves: reads all; goes away after the first bytes of the answer, or in the middle
# of its own body; reads a little now and then
Manner = Literal["reads", "leaves", "breaks_off", "dawdles"]


@dataclass(frozen=True, slots=True)
class SoakRequest:
    """`statuses`: which answers are right."""

    path: str
    body: Any
    statuses: Sequence[int] = (200,)
    manner: Manner = "reads"
    headers: Mapping[str, str] = field(default_factory=dict)


class Kinds:
    """Makes requests. Args: seed: the same one gives the same requests."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._known_images = [self._new_image() for _ in range(_NUM_KNOWN)]
        self._known_clips = [_clip(self._random) for _ in range(_NUM_KNOWN)]
        self._weights = {name: weight for name, (weight, _) in KINDS.items()}

    def draw(self) -> tuple[str, SoakRequest]:
        """The name of a kind, and a request of it."""
        (name,) = self._random.choices(list(self._weights), list(self._weights.values()))
        return name, KINDS[name][1](self)

    # ---- text

    def text(self) -> SoakRequest:
        return SoakRequest(CHAT, self._chat(self._question()))

    def stream(self) -> SoakRequest:
        options = {"include_usage": True}
        return SoakRequest(CHAT, self._chat(self._question(), stream=True, stream_options=options))

    def thinking(self) -> SoakRequest:
        body = self._chat(self._question(), max_tokens=24, reasoning_effort="high")
        return SoakRequest(CHAT, body)

    def thinking_budget(self) -> SoakRequest:
        body = self._chat(self._question(), max_tokens=32, reasoning_effort="high")
        return SoakRequest(CHAT, {**body, "thinking_token_budget": 8, "stream": True})

    def choices(self) -> SoakRequest:
        body = self._chat(self._question(), n=3, temperature=1.0, logprobs=True, top_logprobs=5)
        return SoakRequest(CHAT, body)

    def completion(self) -> SoakRequest:
        body = {"model": MODEL_NAME, "prompt": [self._question()] * 2, "max_tokens": 4}
        return SoakRequest(COMPLETIONS, body)

    def response(self) -> SoakRequest:
        body = {"model": MODEL_NAME, "input": self._question(), "max_output_tokens": 16}
        return SoakRequest(RESPONSES, {**body, "stream": self._random.random() < 0.5})

    def message(self) -> SoakRequest:
        messages = [{"role": "user", "content": self._question()}]
        body = {"model": MODEL_NAME, "messages": messages, "max_tokens": 4}
        return SoakRequest(MESSAGES, {**body, "stream": self._random.random() < 0.5})

    def tokens(self) -> SoakRequest:
        return SoakRequest("/tokenize", {"prompt": self._question()})

    # ---- images and videos

    def new_image(self) -> SoakRequest:
        return SoakRequest(CHAT, self._chat(_image(self._new_image()), text=self._question()))

    def known_image(self) -> SoakRequest:
        known = _image(self._random.choice(self._known_images))
        return SoakRequest(CHAT, self._chat(known, text=self._question()))

    def message_image(self) -> SoakRequest:
        data = self._new_image().partition(",")[2]
        source = {"type": "base64", "media_type": "image/jpeg", "data": data}
        content = [{"type": "image", "source": source}, {"type": "text", "text": self._question()}]
        body = {"model": MODEL_NAME, "messages": [{"role": "user", "content": content}]}
        return SoakRequest(MESSAGES, {**body, "max_tokens": 4})

    def video(self) -> SoakRequest:
        is_known = self._random.random() < 0.5
        url = self._random.choice(self._known_clips) if is_known else _clip(self._random)
        part = {"type": "video_url", "video_url": {"url": url}}
        return SoakRequest(CHAT, self._chat(part, text=self._question()))

    # ---- tools and formats

    def tools(self) -> SoakRequest:
        properties = {self._word(): {"type": "string"}, "count": {"type": "integer"}}
        parameters = {"type": "object", "properties": properties}
        tool = {"type": "function", "function": {"name": "look", "parameters": parameters}}
        choice = self._random.choice(("auto", "required"))
        body = self._chat(self._question(), tools=[tool], tool_choice=choice, max_tokens=24)
        return SoakRequest(CHAT, body)

    def schema(self) -> SoakRequest:
        """One of few: the worker that tries them keeps up to 128 MiB of what it has compiled."""
        properties = {f"name{self._random.randrange(_NUM_SCHEMAS)}": {"type": "integer"}}
        schema = {"type": "object", "properties": properties, "additionalProperties": False}
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        body = self._chat(self._question(), response_format=form, max_tokens=24)
        return SoakRequest(CHAT, body)

    # ---- what is refused

    def wrong_type(self) -> SoakRequest:
        path = self._random.choice((CHAT, MESSAGES, COMPLETIONS))
        body = {"model": MODEL_NAME, "messages": [], "max_tokens": self._question()}
        return SoakRequest(path, body, (400,))

    def wrong_model(self) -> SoakRequest:
        return SoakRequest(CHAT, {**self._chat(self._question()), "model": "other"}, (404,))

    def wrong_path(self) -> SoakRequest:
        return SoakRequest(f"/v1/{self._random.randrange(10**9)}", {}, (404,))

    def wrong_schema(self) -> SoakRequest:
        schema = {"type": f"none{self._random.randrange(10**6)}"}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        return SoakRequest(CHAT, self._chat("hi", response_format=form), (400,))

    def cut_image(self) -> SoakRequest:
        url = self._new_image()
        part = _image(url[: _PREFIX_CHARS + (len(url) - _PREFIX_CHARS) // 8 * 4])
        return SoakRequest(CHAT, self._chat(part), (422,))

    def no_image(self) -> SoakRequest:
        data = self._question().encode()
        return SoakRequest(CHAT, self._chat(_image(data_url(data, "image/png"))), (415,))

    def forbidden_url(self) -> SoakRequest:
        url = f"https://127.0.0.1/{self._random.randrange(10**9)}.png"
        return SoakRequest(CHAT, self._chat(_image(url)), (400,))

    def too_long(self) -> SoakRequest:
        return SoakRequest(CHAT, self._chat(self._question() * 200), (400,))

    # ---- clients that go away

    def leaves(self) -> SoakRequest:
        body = self._chat(_image(self._new_image()), stream=True, max_tokens=100, ignore_eos=True)
        return SoakRequest(CHAT, body, manner="leaves")

    def breaks_off(self) -> SoakRequest:
        return SoakRequest(CHAT, self._chat(_image(self._new_image())), manner="breaks_off")

    def dawdles(self) -> SoakRequest:
        body = self._chat(self._question(), stream=True, max_tokens=60, ignore_eos=True)
        return SoakRequest(CHAT, body, manner="dawdles")

    # ---- parts

    def _chat(self, *content: Any, text: str | None = None, **options: Any) -> dict[str, Any]:
        parts = [_as_part(part) for part in (*content, *([text] if text else []))]
        return {
            "model": MODEL_NAME,
            "messages": [{"role": "user", "content": parts}],
            "max_tokens": 4,
            "reasoning_effort": "none",
            **options,
        }

    def _question(self) -> str:
        words = self._random.choices(_WORDS, k=self._random.randint(4, 24))
        return f"{' '.join(words)} {self._random.randrange(10**6)}?"

    def _word(self) -> str:
        return self._random.choice(_WORDS)

    def _new_image(self) -> str:
        sides = self._random.choice(_SIDES), self._random.choice(_SIDES)
        picture = photo(self._random.getrandbits(32), *sides)
        return data_url(encode(picture, "JPEG"), "image/jpeg")


def _as_part(part: Any) -> Any:
    return {"type": "text", "text": part} if isinstance(part, str) else part


def _image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def _clip(generator: random.Random) -> str:
    first = np.asarray(photo(generator.getrandbits(32), 64, 64))
    frames = (np.ascontiguousarray(np.roll(first, 4 * i, axis=1)) for i in range(_CLIP_FRAMES))
    return data_url(write_mp4(frames, 4.0), "video/mp4")


# by name: how often, and what makes it
KINDS: Mapping[str, tuple[int, Callable[[Kinds], SoakRequest]]] = {
    "text": (14, Kinds.text),
    "stream": (10, Kinds.stream),
    "thinking": (4, Kinds.thinking),
    "thinking budget": (2, Kinds.thinking_budget),
    "choices": (3, Kinds.choices),
    "completion": (4, Kinds.completion),
    "response": (6, Kinds.response),
    "message": (6, Kinds.message),
    "tokens": (2, Kinds.tokens),
    "new image": (12, Kinds.new_image),
    "known image": (8, Kinds.known_image),
    "message image": (3, Kinds.message_image),
    "video": (3, Kinds.video),
    "tools": (3, Kinds.tools),
    "schema": (3, Kinds.schema),
    "wrong type": (2, Kinds.wrong_type),
    "wrong model": (1, Kinds.wrong_model),
    "wrong path": (1, Kinds.wrong_path),
    "wrong schema": (1, Kinds.wrong_schema),
    "cut image": (2, Kinds.cut_image),
    "no image": (1, Kinds.no_image),
    "forbidden URL": (1, Kinds.forbidden_url),
    "too long": (1, Kinds.too_long),
    "leaves": (3, Kinds.leaves),
    "breaks off": (2, Kinds.breaks_off),
    "dawdles": (1, Kinds.dawdles),
}
