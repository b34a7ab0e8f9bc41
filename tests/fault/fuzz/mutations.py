"""Hostile values near valid ones: JSON or bytes, changed in a few places."""

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

_MAX_CHANGES = 4
_ODD_TEXTS = (
    "",
    "\0",
    "a\r\nb: c",
    "<|im_end|>",
    "<|image_pad|>",
    "</think>",
    "data:image/png;base64,",
    "http://127.0.0.1/",
    "{",
    "(" * 50,
    "\u202e",
    "🂡" * 20,
    "x" * 3000,
)
_ODD_NUMBERS = (0, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 1e308, -0.0, 5e-324)


def json_values(words: Sequence[str]) -> st.SearchStrategy[Any]:
    """JSON of every type; `words` are keys and strings that mean something."""
    texts = st.sampled_from(_ODD_TEXTS) | st.sampled_from(words) | st.text(max_size=20)
    numbers = st.sampled_from(_ODD_NUMBERS) | st.integers() | st.floats()
    return st.recursive(
        st.none() | st.booleans() | numbers | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=8,
    )


@st.composite
def mutated_json(draw: st.DrawFn, seeds: Sequence[Any]) -> Any:
    """One of `seeds` with some of its values replaced, removed, repeated or copied elsewhere."""
    root = [copy.deepcopy(seeds[draw(st.integers(0, len(seeds) - 1))])]
    words = sorted(set(_words(list(seeds))))
    for _ in range(draw(st.integers(1, _MAX_CHANGES))):
        places = list(_places(root))
        container, key = places[draw(st.integers(0, len(places) - 1))]
        match draw(st.integers(0, 4)):
            case 0:
                container[key] = draw(json_values(words))
            case 1 if container is not root:
                del container[key]
            case 2:
                other, other_key = places[draw(st.integers(0, len(places) - 1))]
                container[key] = copy.deepcopy(other[other_key])
            case 3 if isinstance(container[key], dict):
                container[key][draw(st.sampled_from(words))] = draw(json_values(words))
            case _ if isinstance(container[key], list):
                container[key] = copy.deepcopy(container[key]) * draw(st.integers(0, 20))
            case _:
                container[key] = [container[key]]
    return root[0]


@st.composite
def encoded_json(draw: st.DrawFn, seeds: Sequence[Any]) -> bytes:
    """The text of such a value, as lenient writers have it: NaN and long integers too."""
    value = draw(mutated_json(seeds))
    return json.dumps(value, ensure_ascii=draw(st.booleans())).encode()


@st.composite
def mutated_bytes(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of `seeds` with bytes changed, cut out, put in, or cut off."""
    data = bytearray(seeds[draw(st.integers(0, len(seeds) - 1))])
    for _ in range(draw(st.integers(1, _MAX_CHANGES))):
        start = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0:
                piece = draw(st.binary(min_size=1, max_size=4))
                data[start : start + len(piece)] = piece
            case 1:
                data[start:start] = draw(st.binary(min_size=1, max_size=8))
            case 2:
                del data[start : start + draw(st.integers(1, 64))]
            case _:
                data[start:] = data[start : start + draw(st.integers(0, 1000))]
    return bytes(data)


@st.composite
def cut(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> list[str]:
    """A text in pieces, as a stream might bring it."""
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Container and key of every value inside."""
    keys = range(len(value)) if isinstance(value, list) else list(value)
    for key in keys:
        yield value, key
        if isinstance(value[key], list | dict):
            yield from _places(value[key])


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from _words(part)
    elif isinstance(value, list):
        for part in value:
            yield from _words(part)
