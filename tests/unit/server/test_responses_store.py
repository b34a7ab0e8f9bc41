import orjson
import pytest

from server.protocol import AssistantMessage, Message, UserMessage
from server.responses.store import KeptResponse, ResponseStore, count_bytes


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def make_turn(text: str) -> tuple[Message, ...]:
    return (
        UserMessage(role="user", content=text),
        AssistantMessage(role="assistant", content=text),
    )


def make_kept(name: str, messages: tuple[Message, ...] = ()) -> KeptResponse:
    body = orjson.dumps({"id": name, "output": [{"id": f"msg_{name}", "type": "message"}]})
    return KeptResponse(body, messages or make_turn(name), (f"msg_{name}",))


def size_of(kept: KeptResponse) -> int:
    return kept.own_bytes + sum(map(count_bytes, kept.messages))


def test_response_is_found_again():
    store, kept = ResponseStore(100_000, 60.0), make_kept("a")
    assert store.put("tenant", "a", kept)
    assert store.get("tenant", "a") is kept


def test_response_of_another_tenant_is_not_found():
    store = ResponseStore(100_000, 60.0)
    store.put("tenant", "a", make_kept("a"))
    assert store.get("", "a") is None
    assert store.find_item("", "msg_a") is None
    assert not store.delete("other", "a")
    assert store.get("tenant", "a") is not None


def test_item_is_found_by_its_id():
    store = ResponseStore(100_000, 60.0)
    store.put("tenant", "a", make_kept("a"))
    assert store.find_item("tenant", "msg_a") == {"id": "msg_a", "type": "message"}
    assert store.find_item("tenant", "msg_b") is None


def test_deleted_response_is_gone_with_its_bytes():
    store = ResponseStore(100_000, 60.0)
    store.put("tenant", "a", make_kept("a"))
    assert store.delete("tenant", "a")
    assert not store.delete("tenant", "a")
    assert store.find_item("tenant", "msg_a") is None
    assert store.num_bytes == 0
    assert not (store._items or store._held)


def test_response_ends_after_its_time():
    clock = Clock()
    store = ResponseStore(100_000, 60.0, clock)
    store.put("tenant", "a", make_kept("a"))
    clock.time = 30.0
    store.put("tenant", "b", make_kept("b"))
    clock.time = 59.0
    assert store.get("tenant", "a") is not None
    clock.time = 60.0
    assert store.get("tenant", "a") is None
    assert store.get("tenant", "b") is not None


def test_ended_response_gives_its_bytes_back():
    clock = Clock()
    store = ResponseStore(100_000, 60.0, clock)
    store.put("tenant", "a", make_kept("a"))
    store.delete("tenant", "a")
    store.put("tenant", "b", make_kept("b"))
    clock.time = 100.0
    assert store.get("tenant", "c") is None
    assert store.num_bytes == 0


def test_least_recently_used_response_goes_first():
    one = size_of(make_kept("a"))
    store = ResponseStore(2 * one, 60.0)
    for name in "ab":
        store.put("tenant", name, make_kept(name))
    store.get("tenant", "a")
    store.put("tenant", "c", make_kept("c"))
    assert [name for name in "abc" if store.get("tenant", name)] == ["a", "c"]
    assert store.num_bytes == 2 * one


def test_a_client_that_keeps_much_drives_out_nothing_but_its_own():
    store = ResponseStore(4 * size_of(make_kept("m0")), 60.0)
    store.put("modest", "m0", make_kept("m0"))
    for index in range(8):
        store.put("greedy", f"g{index}", make_kept(f"g{index}"))
    assert store.get("modest", "m0") is not None
    assert [store.get("greedy", f"g{index}") is not None for index in range(8)] == (
        [False] * 5 + [True] * 3
    )


def test_response_larger_than_the_store_drives_nothing_out():
    store = ResponseStore(size_of(make_kept("a")) + 10, 60.0)
    store.put("tenant", "a", make_kept("a"))
    assert not store.put("tenant", "b", make_kept("b", make_turn("x" * 1000)))
    assert store.get("tenant", "a") is not None


def test_shared_messages_count_once():
    store = ResponseStore(1_000_000, 60.0)
    first = make_turn("x" * 10_000)
    store.put("tenant", "a", make_kept("a", first))
    before = store.num_bytes
    store.put("tenant", "b", make_kept("b", (*first, *make_turn("y"))))
    assert store.num_bytes < before + 10_000
    store.delete("tenant", "a")
    assert store.num_bytes > 10_000
    store.delete("tenant", "b")
    assert store.num_bytes == 0


@pytest.mark.parametrize("max_bytes", [0, 1])
def test_store_of_no_bytes_is_off(max_bytes):
    store = ResponseStore(max_bytes, 60.0)
    assert store.is_on is bool(max_bytes)
    assert not store.put("tenant", "a", make_kept("a"))


def test_what_is_gone_leaves_nothing_behind():
    store = ResponseStore(size_of(make_kept("a")) + 10, 60.0)
    for name in "abcd":
        store.put("client", name, make_kept(name))
    store.delete("client", "d")
    assert not store._ends and not store._kept and not store._items and not store._held


def test_the_list_of_a_long_conversation_counts_for_each_response():
    """Thousands of responses may go on with one conversation of thousands of messages."""
    store = ResponseStore(100_000_000, 60.0)
    messages = (UserMessage(role="user", content="a"),) * 10_000
    for name in "abc":
        assert store.put("", name, make_kept(name, messages))
    assert store.num_bytes > 3 * 8 * len(messages)  # a reference has eight bytes
