"""Answers of the Responses API that are kept in memory, for requests that go on with them."""

import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from threading import RLock
from typing import Any, Concatenate, ParamSpec, TypeVar

import orjson
from pydantic import BaseModel

from server.body_data_url import BodyDataUrl
from server.protocol import Message

Key = tuple[str, str]  # client, id
_Rest = ParamSpec("_Rest")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """A finished answer.

    Attributes:
        body: the response object, as JSON.
        messages: the whole conversation without instructions; the answer is the last one.
        item_ids: of the output items.
    """

    body: bytes
    messages: tuple[Message, ...]
    item_ids: tuple[str, ...]

    @property
    def own_bytes(self) -> int:
        """What it holds alone: the list of a long conversation is long, too."""
        return len(self.body) + sys.getsizeof(self.messages)

    @property
    def output(self) -> list[dict[str, Any]]:
        """The output items."""
        items: list[dict[str, Any]] = orjson.loads(self.body)["output"]
        return items


@dataclass(slots=True)
class _Held:
    """A message that is kept; `num_users` counts the responses that hold it."""

    num_bytes: int
    num_users: int = 0


def _alone(
    method: Callable[Concatenate["ResponseStore", _Rest], _Result],
) -> Callable[Concatenate["ResponseStore", _Rest], _Result]:
    """Long requests are parsed, and look for their history, in threads."""

    @wraps(method)
    def run(store: "ResponseStore", /, *args: _Rest.args, **kwargs: _Rest.kwargs) -> _Result:
        with store._lock:
            return method(store, *args, **kwargs)

    return run


class ResponseStore:
    """Responses by client and id.

    Of the client that holds most, the least recently used ones go first: nobody can drive out what
    others keep. Responses that go on with one another share the messages, whose bytes count once.

    Args:
        max_bytes: 0 keeps nothing.
        ttl_s: of a response, from its end on; one that is over goes with the next look or answer.
        now: a clock in seconds.
    """

    def __init__(
        self, max_bytes: int, ttl_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._lock = RLock()
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._now = now
        self._kept: OrderedDict[Key, KeptResponse] = OrderedDict()
        self._ends: OrderedDict[Key, float] = OrderedDict()  # in the order of their time
        self._items: dict[Key, Key] = {}  # an output item's key -> its response's
        self._held: dict[int, _Held] = {}  # by the id of the message
        self._num_bytes: Counter[str] = Counter()  # by client

    @property
    def is_on(self) -> bool:
        return self._max_bytes > 0

    @property
    def num_bytes(self) -> int:
        """What is held, about."""
        return self._num_bytes.total()

    @_alone
    def put(self, client: str, response_id: str, kept: KeptResponse) -> bool:
        """Keep it, if it fits at all. Returns: whether it is kept."""
        self._forget_ended()
        held = [self._held.get(id(m)) or _Held(count_bytes(m)) for m in kept.messages]
        if kept.own_bytes + sum(one.num_bytes for one in held) > self._max_bytes:
            return False
        key = (client, response_id)
        self._kept[key] = kept
        self._ends[key] = self._now() + self._ttl_s
        self._items.update(((client, item_id), key) for item_id in kept.item_ids)
        self._num_bytes[client] += kept.own_bytes
        for message, one in zip(kept.messages, held, strict=True):
            self._num_bytes[client] += 0 if one.num_users else one.num_bytes
            one.num_users += 1
            self._held[id(message)] = one
        while self.num_bytes > self._max_bytes:
            largest, _ = self._num_bytes.most_common(1)[0]
            self._remove(next(key for key in self._kept if key[0] == largest))
        return True

    @_alone
    def get(self, client: str, response_id: str) -> KeptResponse | None:
        self._forget_ended()
        kept = self._kept.get((client, response_id))
        if kept is not None:
            self._kept.move_to_end((client, response_id))
        return kept

    @_alone
    def find_item(self, client: str, item_id: str) -> dict[str, Any] | None:
        """An output item of a kept response."""
        _, response_id = self._items.get((client, item_id), ("", ""))
        kept = self.get(client, response_id)
        items = kept.output if kept is not None else []
        return next((item for item in items if item["id"] == item_id), None)

    @_alone
    def delete(self, client: str, response_id: str) -> bool:
        """Returns: whether there was one."""
        if self.get(client, response_id) is None:
            return False
        self._remove((client, response_id))
        return True

    def _forget_ended(self) -> None:
        while self._ends and self._ends[key := next(iter(self._ends))] <= self._now():
            self._remove(key)

    def _remove(self, key: Key) -> None:
        kept = self._kept.pop(key)
        del self._ends[key]
        for item_id in kept.item_ids:
            del self._items[key[0], item_id]
        client, _ = key
        self._num_bytes[client] -= kept.own_bytes
        for message in kept.messages:
            one = self._held[id(message)]
            one.num_users -= 1
            if not one.num_users:
                del self._held[id(message)]
                self._num_bytes[client] -= one.num_bytes
        if not self._num_bytes[client]:
            del self._num_bytes[client]


def count_bytes(value: object) -> int:
    """What a message holds in memory, its media included."""
    num_bytes = sys.getsizeof(value)
    if isinstance(value, BodyDataUrl):
        return num_bytes + value.payload.nbytes
    return num_bytes + sum(map(count_bytes, _iterate_parts(value)))


def _iterate_parts(value: object) -> Iterator[object]:
    if isinstance(value, BaseModel):
        yield value.__dict__
        yield from value.__dict__.values()
    elif isinstance(value, list):
        yield from value
