"""Both servers, alive at once and asked in turn: before one works, the other has become idle."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from benchmarks.arguments import Arguments
from benchmarks.cache import CacheFolders
from benchmarks.client import ChatClient
from benchmarks.report import Sample
from benchmarks.servers import (
    SETTLE_S,
    EngineNumbers,
    end_on_sigterm,
    our_launch,
    running,
    stock_launch,
)
from benchmarks.shapes import checkpoint

T = TypeVar("T")

_MAX_TOKEN_DIFFERENCE = 0.01  # timestamps of cut videos differ by some digits


@dataclass(frozen=True, slots=True)
class Pair:
    """`order` decides who is asked first, as being second may be of advantage."""

    ours: ChatClient
    stock: ChatClient
    order: random.Random = field(default_factory=lambda: random.Random(0))

    def first_token(self, messages: Sequence[Any], stock_messages: Sequence[Any] = ()) -> Sample:
        """Ask both in turn; `stock_messages` if stock must be asked otherwise.

        Returns: seconds.
        Raises: RuntimeError if the two prompts are not of the same length.
        """
        ours, stock = self._in_turn(
            lambda: self.ours.first_token(messages),
            lambda: self.stock.first_token(stock_messages or messages),
        )
        difference = abs(ours.num_prompt_tokens - stock.num_prompt_tokens)
        if difference > _MAX_TOKEN_DIFFERENCE * stock.num_prompt_tokens:
            raise RuntimeError(f"the prompts differ: {ours} (ours), {stock} (stock)")
        return Sample(ours.seconds, stock.seconds)

    def throughput(self, conversations: Sequence[Sequence[Any]]) -> Sample:
        """Requests per second of both in turn."""
        return Sample(
            *self._in_turn(
                lambda: self.ours.throughput(conversations),
                lambda: self.stock.throughput(conversations),
            )
        )

    def _in_turn(self, ask_ours: Callable[[], T], ask_stock: Callable[[], T]) -> tuple[T, T]:
        if self.order.random() < 0.5:
            return _settled(ask_ours), _settled(ask_stock)
        stock = _settled(ask_stock)
        return _settled(ask_ours), stock


def _settled(ask: Callable[[], T]) -> T:
    time.sleep(SETTLE_S)
    return ask()


@contextmanager
def running_pair(
    arguments: Arguments, cache: CacheFolders, max_connections: int = 1
) -> Iterator[Pair]:
    """Both started with the same checkpoint; `max_connections` as in `ChatClient`."""
    end_on_sigterm()
    folder = checkpoint(arguments.checkpoints, arguments.shape)
    numbers = EngineNumbers()
    launches = (
        our_launch(folder, numbers, cache.variables),
        stock_launch(arguments.stock_python, folder, numbers),
    )
    with ExitStack() as stack:
        servers = [stack.enter_context(running(launch)) for launch in launches]
        ours, stock = (
            stack.enter_context(ChatClient(server.base_url, max_connections)) for server in servers
        )
        yield Pair(ours, stock)
