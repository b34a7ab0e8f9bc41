"""The OpenAPI document, made of `OPERATIONS`: FastAPI cannot read endpoints that are ASGI."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import (
    GenerateJsonSchema,
    JsonSchemaMode,
    JsonSchemaValue,
    models_json_schema,
)
from pydantic_core import core_schema

from server.access.operator_paths import OPEN_PATHS, OPERATOR_PATHS
from server.openapi.operation_schemas import DETAILS, OPERATIONS, Link, Operation, Parameter, Stream
from server.version import PROJECT, find_version

_DESCRIPTION = """\
Qwen3-VL over the APIs of OpenAI and Anthropic. Unknown fields of a body are ignored, and named in \
the answer's `warning` header. An API key is `Authorization: Bearer KEY` or `x-api-key`; whether \
one is asked for, and what it may ask for a minute, is the operator's choice. Responses are kept \
for the key that their request came with."""
_JSON = "application/json"
_ERRORS: Mapping[int, str] = {
    400: "The body, a field of it, a combination of fields or a parameter is wrong",
    401: "The API key is missing or not valid",
    403: "Not for a page on the web, or for an admin key only",
    404: "Another model is served, nothing of this id is kept, or a setting turns this off",
    408: "The body did not arrive in time",
    409: "A profile is running already, or none is; the name of an adapter is taken; the engine "
    "sleeps at another level",
    413: "The body, or a medium in it, is too large",
    415: "The body is not declared as JSON, or a medium has an unknown format",
    422: "A medium cannot be decoded",
    429: "The API key has used up its requests or tokens of a minute, or its places",
    500: "The engine gave up on the request, or the server has a fault",
    503: "Too many requests are being served, or the model is not ready",
    504: "The answer was not complete within the request's time",
}
_TEXT: JsonSchemaValue = {"type": "string"}
_RATE_LIMITS: Mapping[str, str] = {
    "limit": "What the API key may ask for a minute",
    "remaining": "What is left of it",
    "reset": "How long until all of it is there again: `1m2s`",
}
_HEADERS: Mapping[str, JsonSchemaValue] = {
    "request-id": {
        "description": "The same as `x-request-id`",
        "required": True,
        "schema": _TEXT,
    },
    "retry-after": {
        "description": "Seconds",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "warning": {
        "description": "Names fields of the body that were ignored, as they are unknown",
        "schema": _TEXT,
    },
    "x-request-id": {
        "description": "The id of the request, in the server's log too",
        "required": True,
        "schema": _TEXT,
    },
    **{
        f"x-ratelimit-{what}-{kind}": {"description": f"{meaning}, as {kind}", "schema": _TEXT}
        for kind in ("requests", "tokens")
        for what, meaning in _RATE_LIMITS.items()
    },
}
_PARAMETERS: Mapping[str, JsonSchemaValue] = {
    "x-request-id": {
        "name": "x-request-id",
        "in": "header",
        "description": "Up to 128 letters, digits and `._-`; the server replaces everything else",
        "schema": _TEXT,
    },
    "x-include-item-sources": {
        "name": "x-include-item-sources",
        "in": "header",
        "description": "If it is there, whatever it says, the usage tells where each image and "
        "video came from",
        "schema": _TEXT,
    },
}

_SECURITY_SCHEMES: Mapping[str, JsonSchemaValue] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
# Either, or none: whether a key is asked for is the operator's choice.
_SECURITY: list[JsonSchemaValue] = [*({name: []} for name in _SECURITY_SCHEMES), {}]

Schemas = Mapping[tuple[Any, JsonSchemaMode], JsonSchemaValue]  # model and mode -> reference


@cache
def encode_document() -> bytes:
    """The document as JSON. The first call takes about 0.1 s."""
    return orjson.dumps(_describe_api())


def _describe_api() -> dict[str, Any]:
    schemas, definitions = _collect_schemas(OPERATIONS)
    paths: dict[str, dict[str, Any]] = {}
    responses: dict[str, Any] = {}
    for operation in OPERATIONS:
        described = _describe_operation(operation, schemas)
        paths.setdefault(operation.path, {})[operation.method] = described
        responses |= _describe_errors(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": PROJECT,
            "version": find_version(PROJECT) or "unknown",
            "description": _DESCRIPTION,
        },
        "security": _SECURITY,
        "paths": paths,
        "components": {
            "securitySchemes": _SECURITY_SCHEMES,
            "schemas": definitions,
            "responses": responses,
            "parameters": _PARAMETERS,
            "headers": _HEADERS,
        },
    }


class _SchemaWriter(GenerateJsonSchema):
    """Leaves out what says nothing: titles made of field names, defaults of null."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        described = super().default_schema(schema)
        if described.get("default", ...) is None:
            del described["default"]
        return described


def _collect_schemas(operations: Iterable[Operation]) -> tuple[Schemas, dict[str, Any]]:
    """A reference for each model of the operations, and the definitions that they refer to."""
    models: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {}
    for operation in operations:
        if operation.request is not None:
            models[operation.request, "validation"] = None
        if isinstance(operation.answer, type):
            models[operation.answer, "serialization"] = None
        if operation.stream is not None:
            models[operation.stream.data, "serialization"] = None
        models[operation.error, "serialization"] = None
    template = _refer("schemas", "{model}")["$ref"]
    schemas, collected = models_json_schema(
        list(models), ref_template=template, schema_generator=_SchemaWriter
    )
    definitions: dict[str, Any] = collected["$defs"]
    return schemas, _drop_unused(definitions, schemas)


def _drop_unused(definitions: Mapping[str, Any], schemas: Schemas) -> dict[str, Any]:
    """Without models that only refuse: pydantic defines them but refers to them nowhere."""
    text = orjson.dumps([definitions, *schemas.values()]).decode()
    return {
        name: definition
        for name, definition in definitions.items()
        if f'"{_refer("schemas", name)["$ref"]}"' in text
    }


def _describe_operation(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    errors = _list_errors(operation)
    described = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": _describe_parameters(operation),
        "responses": {
            "200": _describe_answer(operation, schemas),
            **{
                str(status): _refer("responses", _error_name(operation, status))
                for status in errors
            },
        },
    }
    if operation.path in OPEN_PATHS and DETAILS not in operation.parameters:
        described["security"] = []  # no key is asked for
    if operation.request is not None:
        schema = schemas[operation.request, "validation"]
        described["requestBody"] = {
            "required": operation.needs_body,
            "content": {_JSON: {"schema": schema}},
        }
    return described


def _list_errors(operation: Operation) -> list[int]:
    """With those of every operation."""
    errors = {*operation.errors, 500}
    if operation.path in OPERATOR_PATHS or DETAILS in operation.parameters:
        errors |= {401, 403}
    elif operation.path not in OPEN_PATHS:
        errors |= {401, 429} if operation.method == "post" else {401}
    return sorted(errors)


def _describe_parameters(operation: Operation) -> list[dict[str, Any]]:
    names = ["x-request-id"]
    if operation.stream is not None:
        names.append("x-include-item-sources")
    return [
        *map(_describe_parameter, operation.parameters),
        *(_refer("parameters", name) for name in names),
    ]


def _describe_parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": parameter.schema,
    }


def _describe_answer(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if isinstance(operation.answer, str):
        schema = {"type": "object"} if operation.answer == _JSON else _TEXT
        content[operation.answer] = {"schema": schema}
    elif operation.answer is not None:
        content[_JSON] = {"schema": schemas[operation.answer, "serialization"]}
    names = ["x-request-id", "request-id"]
    if 504 in operation.errors:  # those that count against the limits of a key
        names += [name for name in _HEADERS if name.startswith("x-ratelimit-")]
    if operation.stream is not None:
        content["text/event-stream"] = {"schema": _describe_event(operation.stream, schemas)}
        names.append("warning")
    return {
        "description": "The answer",
        "headers": _refer_headers(names),
        "content": content,
        "links": {link.operation: _describe_link(link) for link in operation.links},
    }


def _describe_link(link: Link) -> dict[str, Any]:
    parameters = {link.parameter: f"$response.body#{link.pointer}"}
    return {"operationId": link.operation, "parameters": parameters}


def _describe_event(stream: Stream, schemas: Schemas) -> dict[str, Any]:
    """One event: OpenAPI 3.1 has no word for the items of a stream."""
    data: dict[str, Any] = {
        "type": "string",
        "contentMediaType": _JSON,
        "contentSchema": schemas[stream.data, "serialization"],
    }
    if stream.is_named:
        properties = {"event": {"type": "string"}, "data": data}
    else:
        properties = {"data": {"anyOf": [data, {"const": "[DONE]"}]}}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _describe_errors(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    """The components that the operation's errors refer to."""
    error = {_JSON: {"schema": schemas[operation.error, "serialization"]}}
    ids = ["x-request-id", "request-id"]
    described: dict[str, Any] = {}
    for status in _list_errors(operation):
        described[_error_name(operation, status)] = {
            "description": _ERRORS[status],
            "headers": _refer_headers([*ids, "retry-after"] if status in (429, 503) else ids),
            "content": {} if operation.method == "head" else error,
        }
    return described


def _error_name(operation: Operation, status: int) -> str:
    """`ErrorAnswer404`; of a HEAD, which has no body, `Error404`."""
    name = "Error" if operation.method == "head" else operation.error.__name__
    return f"{name}{status}"


def _refer_headers(names: Iterable[str]) -> dict[str, Any]:
    return {name: _refer("headers", name) for name in names}


def _refer(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}
