"""The OpenAPI document: well-formed, whole, and of one mind with the code that it describes."""

import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from fastapi.openapi.models import OpenAPI
from starlette.routing import Route

from server.anthropic.errors import describe_error as describe_anthropic_error
from server.anthropic.protocol import MessagesRequest
from server.body import BodyModel, parse_body
from server.errors import InvalidRequest
from server.protocol import ChatCompletionRequest
from server.responses.protocol import ResponsesRequest
from server.text_protocol import CompletionRequest
from server.tokens_protocol import TokenizeRequest
from tests.api_document import (
    check,
    find_answer_schema,
    find_body_schema,
    find_data_schema,
    find_operation,
    is_valid,
    read_document,
)
from tests.fake_backend import IMAGE_URL, Server, image_part, make_body

GOLDENS = Path(__file__).parent / "goldens"
PATHS = {
    "anthropic_count": "/v1/messages/count_tokens",
    "anthropic": "/v1/messages",
    "chat": "/v1/chat/completions",
    "completion": "/v1/completions",
    "responses": "/v1/responses",
}
MODELS: dict[str, type[BodyModel]] = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
    "/v1/messages/count_tokens": MessagesRequest,
    "/v1/responses": ResponsesRequest,
    "/tokenize": TokenizeRequest,
}


def iterate_nodes(value: Any) -> Iterator[dict[str, Any]]:
    """All objects of the document."""
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from iterate_nodes(part)
    elif isinstance(value, list):
        for part in value:
            yield from iterate_nodes(part)


def find_references() -> set[str]:
    nodes = iterate_nodes(read_document())
    return {node["$ref"] for node in nodes if isinstance(node.get("$ref"), str)}


def find_security_names() -> set[str]:
    return {name for choice in read_document()["security"] for name in choice}


def test_the_document_has_the_form_of_openapi() -> None:
    OpenAPI.model_validate(read_document())
    assert read_document()["openapi"].startswith("3.1.")


def test_every_schema_has_the_form_of_a_schema() -> None:
    for schema in read_document()["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_components_and_references_match() -> None:
    components = {
        f"#/components/{kind}/{name}"
        for kind, named in read_document()["components"].items()
        for name in named
    }
    schemes = {f"#/components/securitySchemes/{name}" for name in find_security_names()}
    assert find_references() | schemes == components


def test_names_of_components_are_plain() -> None:
    """pydantic makes `name-Input` or `module__name` where two models have one name."""
    names = read_document()["components"]["schemas"]
    assert [name for name in names if not re.fullmatch("[A-Za-z0-9]+", name)] == []


def test_the_document_has_every_route() -> None:
    described = {
        (method.upper(), path)
        for path, methods in read_document()["paths"].items()
        for method in methods
    }
    routes = [r for r in Server().app.routes if isinstance(r, Route) and r.include_in_schema]
    served = {
        (method, route.path.replace(":path}", "}")) for route in routes for method in route.methods
    }
    assert described == served


def test_operations_have_names_of_their_own() -> None:
    paths = read_document()["paths"].values()
    names = [operation["operationId"] for methods in paths for operation in methods.values()]
    assert len(names) == len(set(names))


def test_links_lead_to_operations_and_their_parameters() -> None:
    paths = read_document()["paths"].values()
    operations = {o["operationId"]: o for methods in paths for o in methods.values()}
    links = [
        link
        for operation in operations.values()
        for link in operation["responses"]["200"].get("links", {}).values()
    ]
    assert links
    for link in links:
        parameters = operations[link["operationId"]]["parameters"]
        assert set(link["parameters"]) <= {parameter.get("name") for parameter in parameters}


def test_the_version_is_that_of_the_package() -> None:
    assert read_document()["info"]["version"] == version("qwen3vl-serve")


@pytest.mark.parametrize("golden", sorted(GOLDENS.glob("*.json")), ids=lambda path: path.stem)
def test_golden_answers_are_as_described(golden: Path) -> None:
    path = next(path for name, path in PATHS.items() if golden.stem.startswith(name))
    answer = json.loads(golden.read_text())
    if "_stream_" in golden.stem:
        for data in answer if isinstance(answer, list) else [answer]:
            check(data, find_data_schema(path))
    else:
        check(answer, find_answer_schema("post", path))


@pytest.mark.parametrize("path", [*PATHS.values(), "/tokenize", "/detokenize"])
def test_an_answer_has_no_other_fields_and_lacks_none(path: str) -> None:
    """Or else the tests above would say nothing."""
    schema = find_answer_schema("post", path)
    assert not is_valid({}, schema)
    (name,) = re.findall(r"[^/]+$", schema["$ref"])
    assert read_document()["components"]["schemas"][name]["additionalProperties"] is False


def make_chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", make_body(**fields)


def make_completion(prompt: Any = "a", **fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/completions", {"model": "m", "prompt": prompt, **fields}


def make_count(content: Any = "a", **fields: Any) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": content}]
    return "/v1/messages/count_tokens", {"model": "m", "messages": messages, **fields}


def make_response(given: Any = "a", **fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/responses", {"model": "m", "input": given, **fields}


def make_video(**options: Any) -> tuple[str, dict[str, Any]]:
    return make_chat(content=[{"type": "video", "video": IMAGE_URL, **options}])


def make_processor(**options: Any) -> tuple[str, dict[str, Any]]:
    return make_chat(mm_processor_kwargs={"size": {"longest_edge": 9}, **options})


TOOL = {"type": "function", "name": "f"}
CALL = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
FRAMES = {"video": [IMAGE_URL], "sample_fps": 2}
ACCEPTED = [
    make_chat(),
    make_chat(content=[image_part(max_pixels=4096)]),
    make_chat(temperature=0, n=2, stop="x", logit_bias={"1": -100}, something="else"),
    make_chat(stream=True, stream_options={"include_usage": True}),
    make_chat(stream_options=None),
    make_chat(logprobs=True, top_logprobs=1),
    make_chat(guided_json=None, structured_outputs={"json": None}),
    make_chat(guided_json="{}"),
    make_chat(functions=[], modalities=["text"], echo=False, documents=None),
    make_chat(add_generation_prompt=True, verbosity="medium"),
    make_video(**FRAMES, fps=None),
    make_video(nframes=2, num_frames=None),
    make_processor(max_pixels=None),
    make_completion([1, 2]),
    make_completion(["a", [1]]),
    make_completion(echo=True),
    make_completion(echo=False, logprobs=1),
    make_completion(best_of=1),
    make_count([{"type": "text", "text": "a"}]),
    make_count(tool_choice={"type": "tool", "name": "f"}),
    make_count(tool_choice={"type": "any"}),
    make_response(tools=[TOOL], tool_choice="required"),
    make_response([{"role": "user", "content": "a", "id": "msg_1"}, {"id": "msg_1"}]),
    make_response([{"type": "item_reference", "id": "msg_1", "role": "user"}]),
    make_response(n=1, truncation="disabled", metadata={"a": "b"}),
    ("/tokenize", {"prompt": "a", "messages": None}),
    ("/tokenize", {"messages": [{"role": "user", "content": "a"}]}),
]
REFUSED = [
    make_chat(messages=[]),
    make_chat(messages=[{"role": "user"}]),
    make_chat(temperature=3),
    make_chat(stop=[""]),
    make_chat(stop=["a"] * 17),
    make_chat(logit_bias={"a": 1}),
    make_chat(logit_bias={"1": 101}),
    make_chat(stream_options={}),
    make_chat(stream=False, stream_options={}),
    make_chat(top_logprobs=1),
    make_chat(guided_json=1),
    make_chat(functions=[1]),
    make_chat(echo=True),
    make_chat(echo=0),
    make_video(sample_fps=2),
    make_video(**FRAMES, fps=2),
    make_video(nframes=2, num_frames=2),
    make_processor(max_pixels=4096),
    make_completion([]),
    make_completion([1.5]),
    make_completion(echo=True, logprobs=1),
    make_completion(best_of=2),
    make_completion(best_of=True),
    make_count([CALL]),
    make_count([{"type": "document"}]),
    make_count(tool_choice={"type": "tool"}),
    make_count(tools=[{"type": "bash_20250124", "name": "bash"}]),
    make_response([{"role": "robot", "content": "a", "id": "msg_1"}]),
    make_response([{"role": "user", "id": "msg_1"}]),
    make_response(n=2),
    make_response(stream_options={}),
    ("/tokenize", {}),
    ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}),
]


@pytest.mark.parametrize(("path", "body"), ACCEPTED)
def test_what_is_accepted_is_valid(path: str, body: dict[str, Any]) -> None:
    parse_body(orjson.dumps(body), MODELS[path])
    check(body, find_body_schema(path))


@pytest.mark.parametrize(("path", "body"), REFUSED)
def test_what_is_refused_is_invalid(path: str, body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        parse_body(orjson.dumps(body), MODELS[path])
    assert not is_valid(body, find_body_schema(path))


def test_a_message_needs_a_limit_where_it_is_answered() -> None:
    _, body = make_count()
    assert not is_valid(body, find_body_schema("/v1/messages"))
    check({**body, "max_tokens": 1}, find_body_schema("/v1/messages"))


def test_tools_of_others_are_invalid() -> None:
    """They are refused when the body is translated, which is after it is parsed."""
    _, body = make_response(tools=[{"type": "web_search"}])
    assert not is_valid(body, find_body_schema("/v1/responses"))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_the_header_for_sources_is_described(path: str) -> None:
    parameters = find_operation("post", path)["parameters"]
    assert {"$ref": "#/components/parameters/x-include-item-sources"} in parameters


@pytest.mark.parametrize("path", [*PATHS.values(), "/tokenize", "/detokenize"])
def test_what_has_a_deadline_may_miss_it(path: str) -> None:
    operation = find_operation("post", path)
    assert "504" in operation["responses"]
    assert "x-ratelimit-remaining-tokens" in operation["responses"]["200"]["headers"]


def test_errors_of_a_deadline_are_as_described() -> None:
    body = {"error": {"message": "m", "type": "server_error", "param": None, "code": "c"}}
    check(body, find_answer_schema("post", "/v1/chat/completions", 504))
    check(describe_anthropic_error(body, 504), find_answer_schema("post", "/v1/messages", 504))


def test_keys_are_described_as_optional_and_not_at_all_where_none_is_asked_for() -> None:
    document = read_document()
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"] == {**schemes["bearer"], "type": "http", "scheme": "bearer"}
    assert schemes["x-api-key"]["in"] == "header"
    assert document["security"] == [{"bearer": []}, {"x-api-key": []}, {}]
    is_open = {
        path: operation.get("security") == []
        for path, methods in document["paths"].items()
        for operation in methods.values()
    }
    assert is_open["/ready"] and not is_open["/health"] and not is_open["/v1/chat/completions"]
