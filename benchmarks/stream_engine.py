"""An engine without a model, in the place where both servers have vLLM's `AsyncLLM`."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput

from benchmarks.stream_work import NUM_TOP_LOGPROBS, NUM_UNTIMED, TAGS, Work

_POLL_INTERVAL_S = 0.001
_TOKEN_IDS = range(256, 400)  # of the demo's tokenizer: tokens of several characters


@dataclass(frozen=True, slots=True)
class Seconds:
    """From the first timed output to when all streams have dealt with the last one."""

    cpu: float
    wall: float


class StepEngine:
    """Gives each stream one output, and then the next, as an engine does step by step.

    The outputs are as vLLM's output processor makes them (`DELTA`): before the clock starts, and
    shared by all streams.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._streams: list[_Stream] = []

    def get_tokenizer(self) -> Any:
        return self._tokenizer

    async def abort(self, request_id: str) -> None:
        pass

    async def generate(
        self, prompt: Mapping[str, Any], *_: Any, **__: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        stream = _Stream(prompt["prompt_token_ids"])
        self._streams.append(stream)
        is_finished = False
        while not is_finished:
            output = await stream.take()
            is_finished = output.finished
            yield output

    async def play(self, work: Work) -> Seconds:
        """Wait for the requests of all streams, and give them the outputs of the work."""
        while len(self._streams) < work.num_streams:
            await asyncio.sleep(_POLL_INTERVAL_S)
        *outputs, end = self._make_outputs(work, self._streams[0].prompt_token_ids)
        await self._give(outputs[:NUM_UNTIMED])
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        await self._give(outputs[NUM_UNTIMED:])
        seconds = Seconds(time.process_time() - cpu_s, time.perf_counter() - wall_s)
        for stream in self._streams:
            stream.put(end)
        self._streams = []
        return seconds

    async def _give(self, outputs: Sequence[RequestOutput]) -> None:
        """Returns when all streams have dealt with these, and wait for more."""
        for output in outputs:
            for stream in self._streams:
                stream.put(output)
            await asyncio.sleep(0)
        while not all(stream.is_waiting for stream in self._streams):
            await asyncio.sleep(0)

    def _make_outputs(self, work: Work, prompt_token_ids: list[int]) -> list[RequestOutput]:
        ids = cycle(_TOKEN_IDS)
        tags = {tag: self._tokenizer.convert_tokens_to_ids(tag) for tag in TAGS}
        described = {token_id: self._describe(token_id) for token_id in _TOKEN_IDS}
        outputs = []
        for tokens in work.outputs():
            token_ids = [tags.get(token) or next(ids) for token in tokens]
            logprobs = [described[i] for i in token_ids] if work.variant == "logprobs" else None
            choice = CompletionOutput(0, "".join(tokens), token_ids, None, logprobs)
            outputs.append(RequestOutput("", None, prompt_token_ids, None, [choice], False))
        end_id = self._tokenizer.eos_token_id
        logprobs = [self._describe(end_id)] if work.variant == "logprobs" else None
        end = CompletionOutput(0, "", [end_id], None, logprobs, finish_reason="stop")
        return [*outputs, RequestOutput("", None, prompt_token_ids, None, [end], True)]

    def _describe(self, drawn_id: int) -> dict[int, Logprob]:
        """The drawn token, the most likely one, and those after it."""
        others = [i for i in _TOKEN_IDS if i != drawn_id][: NUM_TOP_LOGPROBS - 1]
        return {
            token_id: Logprob(-math.log(rank + 1.5), rank + 1, self._tokenizer.decode([token_id]))
            for rank, token_id in enumerate([drawn_id, *others])
        }


class _Stream:
    """The outputs of one request, from the engine's step to who reads them."""

    def __init__(self, prompt_token_ids: list[int]) -> None:
        self.prompt_token_ids = prompt_token_ids
        self._outputs: deque[RequestOutput] = deque()
        self._more: asyncio.Future[None] | None = None

    @property
    def is_waiting(self) -> bool:
        return self._more is not None and not self._more.done()

    def put(self, output: RequestOutput) -> None:
        self._outputs.append(output)
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    async def take(self) -> RequestOutput:
        while not self._outputs:
            self._more = asyncio.get_running_loop().create_future()
            await self._more
        return self._outputs.popleft()
