"""What preparation makes of a request."""

from dataclasses import dataclass

from multimodal.layout import ExpandedPrompt
from server.answer import Answer, Chunks
from server.engine import Engine, EngineRequest, LoadPatches
from server.thinking import Thinking
from server.thinking_budget import ThinkingBudget, generate_within


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A prompt with its media; `load_patches` makes their patches, if they are needed."""

    expanded: ExpandedPrompt
    load_patches: LoadPatches
    thinking: Thinking


@dataclass(frozen=True, slots=True)
class PreparedAnswer:
    """An answer to be filled, and the engine's request for each of its choices."""

    answer: Answer
    requests: tuple[EngineRequest, ...]
    budget: ThinkingBudget | None

    def start(self, engine: Engine) -> list[Chunks]:
        """The chunks of each choice; nothing runs before they are read."""
        if self.budget is None:
            return [engine.generate(request) for request in self.requests]
        return [generate_within(self.budget, engine, request) for request in self.requests]
