"""Whether to think, and for how long: one value per request, whichever dialect asked for it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from server.content_parts import TextPart
from server.errors import InvalidRequest
from server.protocol import ChatCompletionRequest, Message, UserMessage

ModelKind = Literal["instruct", "thinking", "hybrid"]

# Tokens of thinking for each `reasoning_effort`; None: no bound but that of the answer.
EFFORT_BUDGETS: dict[str, int | None] = {
    "minimal": 512,
    "low": 2048,
    "medium": 8192,
    "high": None,
    "xhigh": None,
    "max": None,
}
SOFT_SWITCHES = {"/think": True, "/no_think": False}


@dataclass(frozen=True, slots=True)
class Thinking:
    """The resolved value: off, on, or on with a budget in tokens."""

    enabled: bool
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What one parameter asks for; None where it does not say."""

    param: str
    enabled: bool | None = None
    budget: int | None = None

    def contradicts(self, other: "Wish") -> bool:
        return _differ(self.enabled, other.enabled) or _differ(self.budget, other.budget)


def resolve_thinking(
    request: ChatCompletionRequest, kind: ModelKind, *, thinks_by_default: bool
) -> Thinking:
    """Raises: InvalidRequest for wishes that contradict each other, naming both, or that the
    checkpoint cannot fulfil."""
    wishes = list(_iterate_wishes(request))
    if kind == "hybrid":
        wishes += _find_soft_switch(request.messages)
    for one, other in combinations(wishes, 2):
        if one.contradicts(other):
            raise InvalidRequest(
                f"`{one.param}` and `{other.param}` contradict each other; give one of them",
                "contradictory_thinking",
                other.param,
            )
    enabled = next((w.enabled for w in wishes if w.enabled is not None), thinks_by_default)
    budget = next((w.budget for w in wishes if w.budget is not None), None)
    if kind == "instruct" and enabled:
        wish = next(w for w in wishes if w.enabled)
        raise InvalidRequest(
            f"`{wish.param}` asks for thinking, but this is an instruct checkpoint, which cannot "
            "think; serve a thinking checkpoint of the same size, or leave it out",
            "unsupported_parameter",
            wish.param,
        )
    return Thinking(enabled, budget if enabled else None)


def _iterate_wishes(request: ChatCompletionRequest) -> Iterator[Wish]:
    if request.enable_thinking is not None:
        yield Wish("enable_thinking", request.enable_thinking)
    kwargs = request.chat_template_kwargs
    if kwargs is not None and kwargs.enable_thinking is not None:
        yield Wish("chat_template_kwargs.enable_thinking", kwargs.enable_thinking)
    for name in ("thinking_budget", "thinking_token_budget"):
        budget = getattr(request, name)
        if budget is not None:
            yield _wish_budget(name, budget)
    if request.reasoning_effort is not None:
        yield _wish_effort("reasoning_effort", request.reasoning_effort)
    yield from _iterate_reasoning(request)
    yield from _iterate_anthropic(request)


def _iterate_reasoning(request: ChatCompletionRequest) -> Iterator[Wish]:
    reasoning = request.reasoning
    if reasoning is None:
        return
    if reasoning.enabled is not None:
        yield Wish("reasoning.enabled", reasoning.enabled)
    if reasoning.effort is not None:
        yield _wish_effort("reasoning.effort", reasoning.effort)
    if reasoning.max_tokens is not None:
        yield _wish_budget("reasoning.max_tokens", reasoning.max_tokens)


def _iterate_anthropic(request: ChatCompletionRequest) -> Iterator[Wish]:
    """`adaptive` leaves it to the model; so do we, to the checkpoint's default."""
    thinking = request.thinking
    if thinking is None:
        return
    if thinking.type != "adaptive":
        yield Wish("thinking.type", thinking.type == "enabled")
    if thinking.budget_tokens is not None:
        yield _wish_budget("thinking.budget_tokens", thinking.budget_tokens)


def _wish_budget(param: str, budget: int) -> Wish:
    """No tokens at all may be said beside thinking turned off."""
    return Wish(param, True if budget else None, budget)


def _wish_effort(param: str, effort: str) -> Wish:
    if effort == "none":
        return Wish(param, enabled=False)
    return Wish(param, True, EFFORT_BUDGETS[effort])


def _find_soft_switch(messages: Sequence[Message]) -> list[Wish]:
    """Qwen3's switch at the end of the last user turn; the text stays where it is."""
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if isinstance(message, UserMessage):
            words = _last_text(message).split()
            last = words[-1] if words else ""
            param = f"messages[{index}].content"
            return [Wish(param, SOFT_SWITCHES[last])] if last in SOFT_SWITCHES else []
    return []


def _last_text(message: UserMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    last = message.content[-1]
    return last.text if isinstance(last, TextPart) else ""


def _differ(one: bool | int | None, other: bool | int | None) -> bool:
    return one is not None and other is not None and one != other
