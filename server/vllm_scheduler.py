"""vLLM's schedulers with a bound on what long prompts take of a step: the others get the rest."""

from typing import Any

from vllm.config import VllmConfig
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

_DEFAULT_SHARE = 4  # of a step: one long prompt leaves three quarters to others, or empty


class FairShare:
    """Sets `long_prefill_token_threshold` anew for each step; mixed into vLLM's two schedulers.

    vLLM's own is one number, so that as many long prompts as fit into a step take all of it, and
    who comes later waits until one of them is through. Here they share what is left after one token
    for each answer, in equal parts, with a part for whoever waits. A prompt that is alone gets
    the whole step, from vLLM itself.
    """

    # from vLLM
    scheduler_config: Any
    max_num_scheduled_tokens: int
    running: Any
    waiting: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        given = self.scheduler_config.long_prefill_token_threshold
        self._threshold = given or self.max_num_scheduled_tokens // _DEFAULT_SHARE

    def schedule(self, throttle_prefills: bool = False) -> Any:
        self.scheduler_config.long_prefill_token_threshold = self._share()
        return super().schedule(throttle_prefills)  # type: ignore[misc]

    def _share(self) -> int:
        """Tokens of one prompt in the next step."""
        num_prefills = sum(request.is_prefill_chunk for request in self.running)
        num_left = self.max_num_scheduled_tokens - (len(self.running) - num_prefills)
        num_parts = max(1, num_prefills + bool(self.waiting))
        return max(1, min(self._threshold, num_left // num_parts))


class FairScheduler(FairShare, Scheduler):
    pass


class FairAsyncScheduler(FairShare, AsyncScheduler):
    pass


def make_scheduler(vllm_config: VllmConfig, **options: Any) -> Scheduler:
    """In the place of a scheduler class: vLLM has two, and asks for one before it knows which."""
    is_async = vllm_config.scheduler_config.async_scheduling
    scheduler_class = FairAsyncScheduler if is_async else FairScheduler
    return scheduler_class(vllm_config=vllm_config, **options)
