"""What the server's OpenAPI document says, as questions that tests ask of bodies and answers."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import httpx
import jsonschema

from server.openapi.document import encode_document


@cache
def read_document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(encode_document())
    return document


def find_operation(method: str, path: str) -> dict[str, Any]:
    operation: dict[str, Any] = read_document()["paths"][path][method.lower()]
    return operation


def find_body_schema(path: str) -> dict[str, Any]:
    return _json_schema(find_operation("post", path)["requestBody"])


def find_answer_schema(method: str, path: str, status: int = 200) -> dict[str, Any]:
    return _json_schema(_resolve(find_operation(method, path)["responses"][str(status)]))


def find_event_schema(path: str) -> dict[str, Any]:
    """The schema of an event: `event`, if it is named, and `data`, as text."""
    content = find_operation("post", path)["responses"]["200"]["content"]
    schema: dict[str, Any] = content["text/event-stream"]["schema"]
    return schema


def find_data_schema(path: str) -> dict[str, Any]:
    """The schema of what the data of an event is the JSON of."""
    data = find_event_schema(path)["properties"]["data"]
    schema: dict[str, Any] = data.get("anyOf", [data])[0]["contentSchema"]
    return schema


def is_valid(value: object, schema: Mapping[str, Any]) -> bool:
    return _validator(schema).is_valid(value)


def check(value: object, schema: Mapping[str, Any]) -> None:
    """Raises: jsonschema.ValidationError."""
    _validator(schema).validate(value)


def check_response(path: str, response: httpx.Response) -> None:
    """Hold status, headers and content, whole or event by event, against the document.

    Args:
        path: as the document has it, with the names of its parameters.
    """
    operation = find_operation(response.request.method, path)
    described = _resolve(operation["responses"][str(response.status_code)])
    for name, header in described["headers"].items():
        if _resolve(header).get("required"):
            check(_parse(response.headers[name]), _resolve(header)["schema"])
    media_type = response.headers.get("content-type", "").partition(";")[0]
    if not described.get("content"):
        assert response.content == b""
    elif media_type == "text/event-stream":
        for event in split_events(response.text):
            _check_event(path, event)
    else:
        schema = described["content"][media_type]["schema"]
        is_json = media_type == "application/json"
        check(response.json() if is_json else response.text, schema)


def split_events(text: str) -> list[dict[str, str]]:
    """The fields of each event of a stream, each on one line."""
    *events, rest = text.split("\n\n")
    assert rest == ""
    return [dict(line.split(": ", 1) for line in event.split("\n")) for event in events]


def _check_event(path: str, event: dict[str, str]) -> None:
    check(event, find_event_schema(path))
    if event["data"] == "[DONE]":
        return
    data = json.loads(event["data"])
    check(data, find_data_schema(path))
    assert event.get("event") in (None, data.get("type"))


def _json_schema(described: Mapping[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = described["content"]["application/json"]["schema"]
    return schema


def _resolve(described: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference to a component stands for."""
    if "$ref" not in described:
        return described
    _, _, kind, name = described["$ref"].split("/")
    component: Mapping[str, Any] = read_document()["components"][kind][name]
    return component


def _parse(header: str) -> str | int:
    return int(header) if header.isdigit() else header


def _validator(schema: Mapping[str, Any]) -> jsonschema.Draft202012Validator:
    components = {"components": read_document()["components"]}  # where its references lead
    return jsonschema.Draft202012Validator({**schema, **components})
