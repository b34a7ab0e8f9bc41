"""The bodies of `/tokenize` and `/detokenize`, as vLLM has them."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonValue

from server.body import MAX_MESSAGES, BodyModel, Identifier, unsupported
from server.content_parts import MmProcessorKwargs
from server.openapi.rule_schemas import NULL
from server.protocol import (
    MAX_TOOLS,
    ChatCompletionRequest,
    ChatTemplateKwargs,
    Message,
    Tool,
)
from server.refused_fields import RefusedFields

_KINDS: list[JsonValue] = [
    {"properties": {"prompt": {"type": "string"}, "messages": NULL}, "required": ["prompt"]},
    {"properties": {"messages": {"type": "array"}, "prompt": NULL}, "required": ["messages"]},
]


class TokenizeRequest(RefusedFields):
    """Either `prompt`, or `messages` and what goes with them in a chat request."""

    model_config = ConfigDict(json_schema_extra={"anyOf": _KINDS})

    model: Identifier | None = None
    prompt: str | None = None
    messages: (
        Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
        | None
    ) = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    chat_template_kwargs: ChatTemplateKwargs | None = None
    mm_processor_kwargs: MmProcessorKwargs | None = None
    return_token_strs: bool | None = None

    add_generation_prompt: Annotated[Any, unsupported(True)] = None
    add_special_tokens: bool | None = Field(
        default=None, description="without effect: Qwen's tokenizer adds none"
    )
    continue_final_message: Annotated[Any, unsupported(False)] = None

    @model_validator(mode="after")
    def _check_kind(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either `prompt` or `messages`")
        return self

    def to_chat(self, model: str) -> ChatCompletionRequest:
        """The chat request whose prompt is asked for."""
        return ChatCompletionRequest.model_construct(
            model=model,
            messages=self.messages or [],
            tools=self.tools,
            chat_template_kwargs=self.chat_template_kwargs,
            mm_processor_kwargs=self.mm_processor_kwargs,
        )


class DetokenizeRequest(BodyModel):
    model: Identifier | None = None
    tokens: list[Annotated[int, Field(ge=0)]]
