"""Every operation of the API: what it takes, what it answers, how it may fail."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from server.anthropic.protocol import MessagesRequest
from server.lora_routes import LoadAdapterRequest, UnloadAdapterRequest
from server.openapi.answer_schemas import ErrorAnswer
from server.openapi.anthropic_schemas import (
    AnthropicErrorAnswer,
    AnthropicEvent,
    AnthropicMessage,
    CreateMessageRequest,
    TokenCount,
)
from server.openapi.chat_schemas import ChatCompletion, ChatEvent
from server.openapi.responses_event_schemas import ResponsesEvent
from server.openapi.responses_schemas import DeletedResponse, FinishedResponse, ItemList
from server.openapi.service_schemas import (
    AsleepEngine,
    ChangedAdapter,
    FinishedProfile,
    Health,
    ModelCard,
    ModelList,
    Readiness,
    Sleepiness,
    StartedProfile,
    Versions,
    WokenEngine,
)
from server.openapi.text_schemas import TextCompletion, TextEvent
from server.openapi.tokens_schemas import DetokenizeAnswer, TokenizeAnswer
from server.profiler import StartProfileRequest
from server.protocol import ChatCompletionRequest
from server.responses.protocol import ResponsesRequest
from server.text_protocol import CompletionRequest
from server.tokens_protocol import DetokenizeRequest, TokenizeRequest

BODY_ERRORS = (400, 404, 408, 413, 415, 503)
PROMPT_ERRORS = (*BODY_ERRORS, 504)
MEDIA_ERRORS = (*PROMPT_ERRORS, 422)


@dataclass(frozen=True, slots=True)
class Stream:
    """Server-sent events with JSON in them. Those without a name end with the data `[DONE]`."""

    data: type[BaseModel]
    is_named: bool


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    place: Literal["path", "query"]
    schema: Mapping[str, Any]
    description: str


@dataclass(frozen=True, slots=True)
class Link:
    """Another operation, and which of its parameters is at `pointer` in the answer."""

    operation: str
    parameter: str
    pointer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    Attributes:
        name: its `operationId`.
        request: the body, if there is one.
        needs_body: whether it may not be left out.
        answer: a model of JSON, a media type of something else, or None for no body.
        stream: given if the answer may be one.
        errors: statuses; 500 is one of every operation.
    """

    method: Literal["get", "head", "post", "delete"]
    path: str
    name: str
    summary: str
    tag: str
    request: type[BaseModel] | None = None
    needs_body: bool = True
    answer: type[BaseModel] | str | None
    stream: Stream | None = None
    error: type[BaseModel] = ErrorAnswer
    errors: tuple[int, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    links: tuple[Link, ...] = ()


_RESPONSE_ID = Parameter("response_id", "path", {"type": "string", "minLength": 1}, "of a response")
_DETAILS = Parameter(
    "details", "query", {"type": "string", "enum": ["0", "1"]}, "1: how the model runs, checksums"
)
_KEPT_RESPONSE = "/v1/responses/{response_id}"

OPERATIONS = (
    Operation(
        method="post",
        path="/v1/chat/completions",
        name="create_chat_completion",
        summary="Answer a conversation with images and videos",
        tag="OpenAI",
        request=ChatCompletionRequest,
        answer=ChatCompletion,
        stream=Stream(ChatEvent, is_named=False),
        errors=MEDIA_ERRORS,
    ),
    Operation(
        method="post",
        path="/v1/completions",
        name="create_completion",
        summary="Go on with a text, without a chat template",
        tag="OpenAI",
        request=CompletionRequest,
        answer=TextCompletion,
        stream=Stream(TextEvent, is_named=False),
        errors=PROMPT_ERRORS,
    ),
    Operation(
        method="post",
        path="/v1/responses",
        name="create_response",
        summary="Answer a conversation, which may go on with a kept one",
        tag="OpenAI",
        request=ResponsesRequest,
        answer=FinishedResponse,
        stream=Stream(ResponsesEvent, is_named=True),
        errors=MEDIA_ERRORS,
        links=(
            Link("retrieve_response", "response_id", "/id"),
            Link("list_input_items", "response_id", "/id"),
            Link("delete_response", "response_id", "/id"),
        ),
    ),
    Operation(
        method="get",
        path=_KEPT_RESPONSE,
        name="retrieve_response",
        summary="A kept response",
        tag="OpenAI",
        answer=FinishedResponse,
        errors=(400, 404),
        parameters=(_RESPONSE_ID,),
    ),
    Operation(
        method="delete",
        path=_KEPT_RESPONSE,
        name="delete_response",
        summary="Forget a kept response",
        tag="OpenAI",
        answer=DeletedResponse,
        errors=(404,),
        parameters=(_RESPONSE_ID,),
    ),
    Operation(
        method="get",
        path=f"{_KEPT_RESPONSE}/input_items",
        name="list_input_items",
        summary="The conversation that a kept response answers",
        tag="OpenAI",
        answer=ItemList,
        errors=(400, 404),
        parameters=(
            _RESPONSE_ID,
            Parameter("after", "query", {"type": "string"}, "the id of an item"),
            Parameter(
                "limit", "query", {"type": "integer", "minimum": 1, "maximum": 100}, "20 if absent"
            ),
            Parameter(
                "order", "query", {"type": "string", "enum": ["asc", "desc"]}, "desc if absent"
            ),
        ),
    ),
    Operation(
        method="post",
        path="/v1/messages",
        name="create_message",
        summary="Answer a conversation with images and videos",
        tag="Anthropic",
        request=CreateMessageRequest,
        answer=AnthropicMessage,
        stream=Stream(AnthropicEvent, is_named=True),
        error=AnthropicErrorAnswer,
        errors=MEDIA_ERRORS,
    ),
    Operation(
        method="post",
        path="/v1/messages/count_tokens",
        name="count_message_tokens",
        summary="Count the tokens of a prompt",
        tag="Anthropic",
        request=MessagesRequest,
        answer=TokenCount,
        error=AnthropicErrorAnswer,
        errors=MEDIA_ERRORS,
    ),
    Operation(
        method="post",
        path="/tokenize",
        name="tokenize",
        summary="The tokens of a text or of a conversation, media included",
        tag="vLLM",
        request=TokenizeRequest,
        answer=TokenizeAnswer,
        errors=MEDIA_ERRORS,
    ),
    Operation(
        method="post",
        path="/detokenize",
        name="detokenize",
        summary="The text of tokens",
        tag="vLLM",
        request=DetokenizeRequest,
        answer=DetokenizeAnswer,
        errors=PROMPT_ERRORS,
    ),
    Operation(
        method="get",
        path="/v1/models",
        name="list_models",
        summary="The model that is served, and its LoRA adapters",
        tag="OpenAI",
        answer=ModelList,
        errors=(503,),
        links=(Link("retrieve_model", "name", "/data/0/id"),),
    ),
    Operation(
        method="get",
        path="/v1/models/{name}",
        name="retrieve_model",
        summary="The model or adapter of this name",
        tag="OpenAI",
        answer=ModelCard,
        errors=(404, 503),
        parameters=(
            Parameter("name", "path", {"type": "string", "minLength": 1}, "may have slashes"),
        ),
    ),
    Operation(
        method="get",
        path="/health",
        name="check_health",
        summary="Whether the server lives: also while it loads the model",
        tag="Service",
        answer=Health,
        errors=(400, 503),
        parameters=(_DETAILS,),
    ),
    Operation(
        method="head",
        path="/health",
        name="probe_health",
        summary="The same without a body",
        tag="Service",
        answer=None,
        errors=(400, 503),
        parameters=(_DETAILS,),
    ),
    Operation(
        method="get",
        path="/ready",
        name="check_ready",
        summary="Whether requests are accepted",
        tag="Service",
        answer=Readiness,
        errors=(503,),
    ),
    Operation(
        method="head",
        path="/ready",
        name="probe_ready",
        summary="The same without a body",
        tag="Service",
        answer=None,
        errors=(503,),
    ),
    Operation(
        method="get",
        path="/metrics",
        name="read_metrics",
        summary="Metrics in Prometheus' text format",
        tag="Service",
        answer="text/plain",
    ),
    Operation(
        method="get",
        path="/version",
        name="read_versions",
        summary="The versions of the server and of vLLM",
        tag="Service",
        answer=Versions,
    ),
    Operation(
        method="post",
        path="/v1/load_lora_adapter",
        name="load_lora_adapter",
        summary="Load a LoRA adapter; only with `engine.lora_dir`",
        tag="vLLM",
        request=LoadAdapterRequest,
        answer=ChangedAdapter,
        errors=(*BODY_ERRORS, 409),
    ),
    Operation(
        method="post",
        path="/v1/unload_lora_adapter",
        name="unload_lora_adapter",
        summary="Unload a LoRA adapter; requests that use it are finished",
        tag="vLLM",
        request=UnloadAdapterRequest,
        answer=ChangedAdapter,
        errors=BODY_ERRORS,
    ),
    Operation(
        method="post",
        path="/start_profile",
        name="start_profile",
        summary="Begin to trace the server; only with `server.profile_dir`",
        tag="vLLM",
        request=StartProfileRequest,
        needs_body=False,
        answer=StartedProfile,
        errors=(*BODY_ERRORS, 403, 409),
    ),
    Operation(
        method="post",
        path="/stop_profile",
        name="stop_profile",
        summary="End the trace, and wait until it is written",
        tag="vLLM",
        answer=FinishedProfile,
        errors=(403, 404, 409, 503),
    ),
    Operation(
        method="post",
        path="/sleep",
        name="sleep",
        summary="Give the device's memory back; only with `engine.enable_sleep_mode`",
        tag="vLLM",
        answer=AsleepEngine,
        errors=(400, 403, 404, 409, 503),
        parameters=(
            Parameter("level", "query", {"enum": ["1", "2"]}, "1 if absent; 2 drops the weights"),
            Parameter("mode", "query", {"const": "wait"}, "what is done to running requests"),
        ),
    ),
    Operation(
        method="post",
        path="/wake_up",
        name="wake_up",
        summary="Bring back what a sleep has given back",
        tag="vLLM",
        answer=WokenEngine,
        errors=(400, 403, 404, 503),
        parameters=(
            Parameter(
                "tags",
                "query",
                {"type": "array", "items": {"enum": ["weights", "kv_cache"]}},
                "all if absent",
            ),
        ),
    ),
    Operation(
        method="get",
        path="/is_sleeping",
        name="is_sleeping",
        summary="Whether the engine is asleep, or about to be",
        tag="vLLM",
        answer=Sleepiness,
        errors=(404,),
    ),
    Operation(
        method="get",
        path="/openapi.json",
        name="read_openapi",
        summary="This document",
        tag="Service",
        answer="application/json",
    ),
)
