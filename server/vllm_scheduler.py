"""vLLM's schedulers, but long prompts do not keep short ones waiting, nor one client another.

In vLLM who comes first takes what it needs of each step: a request behind a prompt of 100 steps
gets its first token after them, and one behind a prompt that waits for KV cache waits with it.
"""

import time
from collections.abc import Sequence
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from server.vllm_fair_clients import FairClients

_MAX_PARTS = 4  # of a step; so many prompts of more than a step's tokens go on at once, at most
_MAX_PASSED_S = 60.0
_RETRY_STEPS = 8  # after which those that were passed are tried again


class FairPrefill:
    """Shares out each step; mixed into vLLM's two schedulers.

    Running prompts: the oldest, and with it those that have less left than the oldest, have equal
    parts; the others come next. Equal prompts thus follow each other, as in vLLM. A part is
    kept for whoever waits to be admitted.

    Waiting prompts: one for which the KV cache has no room is passed by those behind it, for
    `_MAX_PASSED_S` after its arrival; then they wait until it is in.
    """

    # from vLLM
    scheduler_config: Any
    max_num_scheduled_tokens: int
    max_num_active_reqs: int
    current_step: int
    running: Any
    waiting: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._passed: set[Any] = set()

    def schedule(self, throttle_prefills: bool = False) -> Any:
        passed = self._passed.intersection(self.waiting) if self._passed else set()
        if passed:
            self.waiting.remove_requests(passed)
        self.scheduler_config.long_prefill_token_threshold = self._share_step()
        output = super().schedule(throttle_prefills)  # type: ignore[misc]
        self._passed = self._pass_head(output, passed)
        self.waiting.prepend_requests(passed)
        return output

    def _share_step(self) -> int:
        """Hold back who gets no part of the next step. Returns: most tokens of one prompt."""
        prefills = [request for request in self.running if request.is_prefill_chunk]
        if not prefills:
            return 0  # no bound
        num_answers = len(self.running) - len(prefills)
        num_left = self.max_num_scheduled_tokens - num_answers - self._num_kept_for_waiting()
        remaining = [request.num_tokens - request.num_computed_tokens for request in prefills]
        chosen = choose_prefills(remaining, num_left)
        for index, request in enumerate(prefills):
            if index not in chosen:  # the word is of pipelines; the effect is what is wanted
                request.next_decode_eligible_step = self.current_step + 2
        return largest_part([remaining[index] for index in chosen], num_left)

    def _num_kept_for_waiting(self) -> int:
        if not self.waiting or len(self.running) >= self.max_num_active_reqs:
            return 0
        most = self.max_num_scheduled_tokens // _MAX_PARTS
        return min(self.waiting.peek_request().num_tokens, most)

    def _pass_head(self, output: Any, passed: set[Any]) -> set[Any]:
        """Whom to leave out of the next step: who could not be admitted, one more in each step."""
        if self.current_step % _RETRY_STEPS == 0:
            return set()
        was_full = (
            output.total_num_scheduled_tokens >= self.max_num_scheduled_tokens
            or len(self.running) >= self.max_num_active_reqs
        )
        if not self.waiting or output.scheduled_new_reqs or was_full:
            return passed
        head = self.waiting.peek_request()
        is_late = time.time() - head.arrival_time > _MAX_PASSED_S
        return set() if is_late else passed | {head}


def choose_prefills(remaining: Sequence[int], num_tokens: int) -> set[int]:
    """Who shares `num_tokens` of a step.

    Args:
        remaining: tokens that each prompt has left, the oldest first.
    Returns: indices.
    """
    oldest = remaining[0]
    shorter = [index for index, left in enumerate(remaining) if left < oldest]
    shorter.sort(key=remaining.__getitem__)
    chosen = {0, *shorter[: _MAX_PARTS - 1]}
    num_taken = sum(remaining[index] for index in chosen)
    for index, left in enumerate(remaining):
        if num_taken >= num_tokens:
            break
        if index not in chosen:
            chosen.add(index)
            num_taken += left
    return chosen


def largest_part(remaining: Sequence[int], num_tokens: int) -> int:
    """The bound for each with which all together take `num_tokens`, or all they have left."""
    num_left = num_tokens
    for index, left in enumerate(sorted(remaining)):
        part = num_left // (len(remaining) - index)
        if left > part:
            return max(1, part)
        num_left -= left
    return max(1, num_tokens)


class ClientScheduler(FairClients, Scheduler):
    pass


class ClientAsyncScheduler(FairClients, AsyncScheduler):
    pass


class FairScheduler(FairPrefill, FairClients, Scheduler):
    pass


class FairAsyncScheduler(FairPrefill, FairClients, AsyncScheduler):
    pass


def make_scheduler(vllm_config: VllmConfig, **options: Any) -> Scheduler:
    """In the place of a scheduler class: vLLM has two, and asks for one before it knows which."""
    is_async = vllm_config.scheduler_config.async_scheduling
    scheduler_class = FairAsyncScheduler if is_async else FairScheduler
    return scheduler_class(vllm_config=vllm_config, **options)


def make_plain_scheduler(vllm_config: VllmConfig, **options: Any) -> Scheduler:
    """The same without `FairPrefill`."""
    is_async = vllm_config.scheduler_config.async_scheduling
    scheduler_class = ClientAsyncScheduler if is_async else ClientScheduler
    return scheduler_class(vllm_config=vllm_config, **options)
