"""The OpenAPI document: FastAPI writes it for its own routes, this for the endpoints that are ASGI."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from server.chat_schemas import ErrorAnswer

_REF = "#/components/schemas/{model}"
# Statuses of errors that any endpoint with a body may have, and what they mean.
_ERRORS: Mapping[int, str] = {
    400: "The body, a field of it or a combination of fields is wrong",
    404: "Another model is served",
    408: "The body did not arrive in time",
    413: "The body, or a medium in it, is too large",
    415: "The body is not declared as JSON, or a medium has an unknown format",
    422: "A medium cannot be decoded",
    500: "The engine gave up on the request",
    503: "Too many requests, or the model is not ready",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """An endpoint with a JSON body; `event` is given if it can stream."""

    path: str
    summary: str
    request: type[BaseModel]
    answer: type[BaseModel]
    event: type[BaseModel] | None = None


def describe_api(app: FastAPI, operations: tuple[Operation, ...]) -> dict[str, Any]:
    """The whole document."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas, definitions = _collect_schemas(operations)
    for operation in operations:
        described = _describe_operation(operation, schemas)
        document["paths"].setdefault(operation.path, {})["post"] = described
    document.setdefault("components", {}).setdefault("schemas", {}).update(definitions)
    return document


def _collect_schemas(
    operations: tuple[Operation, ...],
) -> tuple[dict[tuple[type[BaseModel], JsonSchemaMode], Any], dict[str, Any]]:
    """A reference for each model of the operations, and the definitions that they refer to."""
    inputs: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (operation.request, "validation") for operation in operations
    ]
    models = [model for o in operations for model in (o.answer, o.event) if model is not None]
    outputs: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (model, "serialization") for model in dict.fromkeys((*models, ErrorAnswer))
    ]
    references, collected = models_json_schema(
        [*inputs, *outputs], ref_template=_REF, schema_generator=GenerateJsonSchema
    )
    return references, collected["$defs"]


def _describe_operation(
    operation: Operation, schemas: Mapping[tuple[type[BaseModel], JsonSchemaMode], Any]
) -> dict[str, Any]:
    content = {"application/json": {"schema": schemas[operation.answer, "serialization"]}}
    if operation.event is not None:
        # OpenAPI 3.1 has no word for the items of a stream: the schema is that of one event's data.
        content["text/event-stream"] = {
            "schema": {"type": "string"},
            "x-event-schema": schemas[operation.event, "serialization"],
        }
    error = {"application/json": {"schema": schemas[ErrorAnswer, "serialization"]}}
    return {
        "summary": operation.summary,
        "operationId": operation.path.strip("/").replace("/", "_"),
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schemas[operation.request, "validation"]}},
        },
        "responses": {
            "200": {"description": "The answer", "content": content},
            **{
                str(status): {"description": description, "content": error}
                for status, description in _ERRORS.items()
            },
        },
    }
