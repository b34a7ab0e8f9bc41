"""The death of vLLM's engine, in our words, and for calls that vLLM would leave waiting."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from server.engine import EngineDead

_LOOK_INTERVAL_S = 1.0
Result = TypeVar("Result")


@contextmanager
def engine_death() -> Iterator[None]:
    """Raises: EngineDead for what vLLM raises when its engine has died."""
    try:
        yield
    except EngineDeadError as error:
        raise EngineDead("the engine has stopped") from error


async def until_death(llm: AsyncLLM, call: Coroutine[Any, Any, Result]) -> Result:
    """What a call of the engine returns.

    vLLM ends the requests of an engine that dies, but no other call that waits for its answer.

    Raises: EngineDeadError; whatever the call raises.
    """
    task = asyncio.ensure_future(call)
    try:
        while not task.done():
            await asyncio.wait((task,), timeout=_LOOK_INTERVAL_S)
            if llm.errored and not task.done():
                raise EngineDeadError
        return task.result()
    finally:
        task.cancel()
