"""Two replicas behind a router that keys on the conversation, with one disk tier between them."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.real_cache import count, count_in_tier, entries, picture_part, start
from tests.e2e.real_media import text
from tests.e2e.real_server import RealServer, wait_until
from tests.e2e.router import Router
from tests.e2e.scaling import needs_scaling

pytestmark = [pytest.mark.slow, needs_scaling]

_NUM_CONVERSATIONS = 24  # all on one of two replicas: once in 2**23 runs


@dataclass(frozen=True)
class Pair:
    """Attributes:
    replicas: each with a host tier of its own, as on two machines.
    """

    replicas: list[RealServer]
    router: Router
    disk_dir: Path

    def ask(self, conversation: str, *content: Any) -> tuple[str, ...]:
        """A user's turn. Returns: where each of its pictures came from."""
        headers = {"x-session-id": conversation, "x-include-item-sources": "1"}
        answer = self.router.ask(list(content), max_tokens=4, extra_headers=headers)
        return tuple(answer.usage.prompt_tokens_details.item_sources)

    def replica_of(self, conversation: str) -> RealServer:
        """The one that answers it; that takes an answer."""
        before = [_count_done(replica) for replica in self.replicas]
        self.ask(conversation, text("hi"))

        def asked() -> list[RealServer]:
            counts = zip(self.replicas, before, strict=True)
            return [replica for replica, count in counts if _count_done(replica) > count]

        wait_until(lambda: len(asked()) == 1)  # it counts when the answer has been sent
        return asked()[0]

    def conversation_of(self, replica: RealServer, name: str) -> str:
        """One that the router sends there."""
        names = (f"{name} {number}" for number in range(_NUM_CONVERSATIONS))
        return next(name for name in names if self.replica_of(name) is replica)


def _count_done(replica: RealServer) -> float:
    return replica.sample("qwen3vl_requests_total", outcome="done")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, logs: Path) -> Iterator[Pair]:
    disk_dir = tmp_path_factory.mktemp("disk-tier")
    with ExitStack() as stack:
        replicas = [
            stack.enter_context(start(logs / f"replica-{number}", disk_dir=disk_dir))
            for number in range(2)
        ]
        router = stack.enter_context(Router(replicas, logs / "router"))
        yield Pair(replicas, router, disk_dir)


def see(pair: Pair, conversation: str, seed: int) -> tuple[str, ...]:
    """Ask about a picture, and wait until it is in the disk tier."""
    before = len(entries(pair.disk_dir))
    sources = pair.ask(conversation, picture_part(seed), text("What is it?"))
    wait_until(lambda: len(entries(pair.disk_dir)) > before)
    return sources


def test_a_conversation_stays_on_its_replica(pair: Pair) -> None:
    conversations = [f"stays {number}" for number in range(_NUM_CONVERSATIONS)]
    first = [pair.replica_of(conversation) for conversation in conversations]
    assert set(first) == set(pair.replicas)
    assert [pair.replica_of(conversation) for conversation in conversations] == first


def test_a_picture_of_a_conversation_is_found_near(pair: Pair) -> None:
    replica = pair.replicas[0]
    conversation = pair.conversation_of(replica, "near")
    assert see(pair, conversation, seed=901) == ("encoded",)
    from_disk = count_in_tier(replica, "disk", "hits")
    again = pair.ask(conversation, text("And now:"), picture_part(901), text("What is it?"))
    assert again in (("device",), ("host",))
    assert count_in_tier(replica, "disk", "hits") == from_disk


def test_a_picture_that_one_replica_has_seen_is_not_encoded_by_the_other(pair: Pair) -> None:
    one, other = pair.replicas
    see(pair, pair.conversation_of(one, "seen"), seed=902)
    before = count(other)
    sources = pair.ask(pair.conversation_of(other, "seen"), picture_part(902), text("What is it?"))
    assert sources == ("disk",)
    assert count(other).encoded == before.encoded
    assert count(other).decoded == before.decoded


def test_the_other_replica_goes_on_with_the_conversations_of_a_dead_one(pair: Pair) -> None:
    """The last test of these."""
    dead = pair.replicas[0]
    conversation = pair.conversation_of(dead, "goes on")
    see(pair, conversation, seed=903)
    dead.process.kill()
    dead.wait()
    sources = pair.ask(conversation, picture_part(903), text("What is it?"))
    assert sources == ("disk",)
