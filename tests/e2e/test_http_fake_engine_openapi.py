"""What the application answers, on fakes, is what its OpenAPI document says."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from multimodal.errors import UnsupportedMedia
from server.engine import TokenLogprob
from server.settings import ResponsesSettings, ServerSettings, Settings
from tests.api_document import check_response, read_document, split_events
from tests.fake_backend import CORRUPT_URL, IMAGE_URL, FakeRenderer, Server, image_part
from tests.fake_engine import make_chunk

GOLDENS = Path(__file__).parents[1] / "unit" / "server" / "goldens"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
COUNT = "/v1/messages/count_tokens"

LOGPROB = TokenLogprob(7, b"A", -0.5, top=(TokenLogprob(8, "é".encode()[:1], -2.5),))
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "the cat"}}\n</tool_call>'
END = make_chunk("", finish="stop")
SCRIPTS = {
    "text": [make_chunk("A ", num_cached_tokens=2), make_chunk("cat."), END],
    "cut": [make_chunk("A "), make_chunk("", finish="length")],
    "nothing": [END],
    "reasoning": [make_chunk("Fur.\n</thi"), make_chunk("nk>\n\nA cat."), END],
    "cut_reasoning": [make_chunk("Fur."), make_chunk("", finish="length")],
    "call": [make_chunk("I look.\n"), make_chunk(CALL[:40]), make_chunk(CALL[40:]), END],
    "broken_call": [make_chunk(CALL[:40]), make_chunk("!"), END],
    "logprobs": [make_chunk("A", logprobs=(LOGPROB,)), END],
    "sources": [make_chunk("A cat.", finish="stop", item_sources=("encoded",))],
}
FAILURES = {
    "failure": [make_chunk("A "), RuntimeError("a bug")],
    "failed_reasoning": [make_chunk("Fur."), make_chunk("", finish="error")],
}
FUNCTION = {"name": "look", "parameters": {"type": "object"}}
TOOLS: dict[str, Any] = {
    CHAT: {"type": "function", "function": FUNCTION},
    MESSAGES: {"name": "look", "input_schema": {"type": "object"}},
    RESPONSES: {"type": "function", **FUNCTION},
}
LOGPROBS: dict[str, dict[str, Any]] = {
    CHAT: {"logprobs": True, "top_logprobs": 1},
    TEXT: {"logprobs": 1},
    RESPONSES: {"include": ["message.output_text.logprobs"], "top_logprobs": 1},
}
KEPT = Settings(responses=ResponsesSettings(store_max_bytes=1_000_000))


def make_server(name: str) -> Server:
    kind = "thinking" if "reasoning" in name else "instruct"
    return Server(*(SCRIPTS | FAILURES)[name], renderer=FakeRenderer(kind), settings=KEPT)


def make_content(path: str, name: str) -> Any:
    if name != "sources" or path == TEXT:
        return "what is this"
    if path == CHAT:
        return [image_part()]
    if path == RESPONSES:
        return [{"type": "input_image", "image_url": IMAGE_URL}]
    _, data = IMAGE_URL.split(",")
    source = {"type": "base64", "media_type": "image/png", "data": data}
    return [{"type": "image", "source": source}]


def make_fields(path: str, name: str) -> dict[str, Any]:
    """What a request of an API needs to be answered with a script."""
    content = make_content(path, name)
    messages = [{"role": "user", "content": content}]
    fields: dict[str, Any] = {"model": "qwen"}
    fields |= {"prompt": content} if path == TEXT else {}
    fields |= {"input": messages} if path == RESPONSES else {}
    fields |= {"messages": messages} if path in (CHAT, MESSAGES) else {}
    if path == MESSAGES:
        fields |= {"max_tokens": 9}
        fields |= {"thinking": {"type": "enabled"}} if "reasoning" in name else {}
    if "call" in name and path in TOOLS:
        fields["tools"] = [TOOLS[path]]
    return fields | (LOGPROBS.get(path, {}) if name == "logprobs" else {})


async def ask(path: str, name: str, **fields: Any) -> httpx.Response:
    headers = {"x-include-item-sources": "1"} if name == "sources" else {}
    body = make_fields(path, name) | fields
    return await make_server(name).request("POST", path, json=body, headers=headers)


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("path", [CHAT, TEXT, MESSAGES, RESPONSES])
async def test_whole_answers_are_as_described(path: str, name: str) -> None:
    response = await ask(path, name)
    assert response.status_code == 200, response.text
    check_response(path, response)


@pytest.mark.parametrize("name", [*SCRIPTS, *FAILURES])
@pytest.mark.parametrize("path", [CHAT, TEXT, MESSAGES, RESPONSES])
async def test_events_are_as_described(path: str, name: str) -> None:
    response = await ask(path, name, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    check_response(path, response)


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("continuous", [False, True])
async def test_events_with_usage_are_as_described(path: str, continuous: bool) -> None:
    options = {"include_usage": True, "continuous_usage_stats": continuous}
    response = await ask(path, "text", stream=True, stream_options=options, n=2)
    num_events = len(split_events(response.text)) - 1
    assert response.text.count('"usage":{') == (num_events if continuous else 1)
    check_response(path, response)


@pytest.mark.parametrize("name", SCRIPTS)
async def test_chat_completions_are_the_golden_ones(name: str) -> None:
    assert read_answer(await ask(CHAT, name)) == read_golden(f"chat_whole_{name}")


@pytest.mark.parametrize("name", [*SCRIPTS, "failure"])
async def test_events_of_chats_are_the_golden_ones(name: str) -> None:
    assert read_answer(await ask(CHAT, name, stream=True)) == read_golden(f"chat_stream_{name}")


@pytest.mark.parametrize("name", ["text", "cut", "nothing", "logprobs"])
async def test_completions_are_the_golden_ones(name: str) -> None:
    assert read_answer(await ask(TEXT, name)) == read_golden(f"completion_whole_{name}")
    options = {"stream_options": {"include_usage": True}}
    events = read_answer(await ask(TEXT, name, stream=True, **options))
    assert events == read_golden(f"completion_stream_{name}")


def read_golden(name: str) -> Any:
    return json.loads((GOLDENS / f"{name}.json").read_text())


def read_answer(response: httpx.Response) -> Any:
    """The answer or the data of its events, with ids and times that are always the same."""
    text = re.sub(r"(chatcmpl-|cmpl-|call_|req-)[0-9a-f]+", r"\g<1>0", response.text)
    text = re.sub(r'"created":\d+', '"created":0', text)
    if not response.headers["content-type"].startswith("text/event-stream"):
        return json.loads(text)
    *events, done = [event["data"] for event in split_events(text)]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


ERRORS: list[tuple[int, dict[str, Any], dict[str, Any]]] = [
    (400, {"json": {}}, {}),
    (404, {"json": {"model": "another"}}, {}),
    (413, {"content": b"{}" * 600}, {}),
    (415, {"content": b"{}", "headers": {"content-type": "text/plain"}}, {}),
    (503, {"json": {}}, {"is_loaded": False}),
]


@pytest.mark.parametrize(("status", "options", "server"), ERRORS)
@pytest.mark.parametrize(
    "path", [CHAT, TEXT, MESSAGES, RESPONSES, COUNT, "/tokenize", "/detokenize"]
)
async def test_errors_are_as_described(
    path: str, status: int, options: dict[str, Any], server: dict[str, Any]
) -> None:
    settings = Settings(server=ServerSettings(max_body_bytes=1024))
    if options.get("json"):
        given = {"/tokenize": {"prompt": "a"}, "/detokenize": {"tokens": [1]}}
        fields = given.get(path) or make_fields(MESSAGES if path == COUNT else path, "text")
        options = {"json": fields | options["json"]}
    options = {"headers": {"content-type": "application/json"}, **options}
    response = await Server(settings=settings, **server).request("POST", path, **options)
    assert response.status_code == status, response.text
    check_response(path, response)


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
async def test_an_error_of_media_is_as_described(path: str) -> None:
    body = json.dumps(make_fields(path, "sources"))
    body = body.replace(IMAGE_URL.partition(",")[2], CORRUPT_URL.partition(",")[2])
    headers = {"content-type": "application/json"}
    response = await Server().request("POST", path, content=body, headers=headers)
    assert response.status_code == 422, response.text
    check_response(path, response)


@pytest.mark.parametrize("path", [CHAT, TEXT, MESSAGES, RESPONSES])
async def test_an_error_of_the_engine_is_as_described(path: str) -> None:
    response = await ask(path, "failure")
    assert response.status_code == 500
    check_response(path, response)


async def test_unknown_medium_is_as_described() -> None:
    server = make_server("text")

    async def load(*args: Any, **options: Any) -> Any:
        raise UnsupportedMedia("no image", "unsupported_image", "messages[0]")

    server.pipeline.load = load
    response = await server.request("POST", CHAT, json=make_fields(CHAT, "sources"))
    assert response.status_code == 415
    check_response(CHAT, response)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"prompt": "a b"}),
        ("/tokenize", {"messages": [{"role": "user", "content": "a"}], "return_token_strs": True}),
        ("/detokenize", {"tokens": [1, 2]}),
        (COUNT, {"model": "qwen", "messages": [{"role": "user", "content": "a"}]}),
    ],
)
async def test_answers_about_tokens_are_as_described(path: str, body: dict[str, Any]) -> None:
    server = Server()
    server.renderer.name_tokens = lambda tokens: [f"t{token}" for token in tokens]
    server.renderer.decode_prompt = server.renderer.decode
    response = await server.request("POST", path, json=body)
    assert response.status_code == 200, response.text
    check_response(path, response)


@pytest.mark.parametrize(
    ("method", "path", "while_loading"),
    [
        ("GET", "/health", 200),
        ("HEAD", "/health", 200),
        ("GET", "/ready", 503),
        ("HEAD", "/ready", 503),
        ("GET", "/v1/models", 503),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
    ],
)
async def test_the_service_answers_as_described(method: str, path: str, while_loading: int) -> None:
    for is_loaded, status in ((True, 200), (False, while_loading)):
        response = await Server(is_loaded=is_loaded).request(method, path)
        assert response.status_code == status
        check_response(path, response)


@pytest.mark.parametrize(("name", "status"), [("qwen", 200), ("other", 404)])
async def test_a_model_is_as_described(name: str, status: int) -> None:
    response = await Server().request("GET", f"/v1/models/{name}")
    assert response.status_code == status
    check_response("/v1/models/{name}", response)


HISTORY = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "input_video", "video_url": "https://x.test/a.mp4"}]},
    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]},
    {"role": "assistant", "content": "I look."},
    {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
    {
        "type": "function_call_output",
        "call_id": "c",
        "output": [{"type": "input_image", "image_url": IMAGE_URL}],
    },
    {"type": "function_call_output", "call_id": "d", "output": "a cat"},
]
FORMAT = {"type": "json_schema", "name": "a", "schema": {"type": "object"}}


async def test_a_kept_response_is_as_described() -> None:
    server = make_server("text")
    fields = {
        "input": HISTORY,
        "text": {"format": FORMAT},
        "reasoning": {"effort": "none"},
        "tools": [TOOLS[RESPONSES]],
        "tool_choice": {"type": "function", "name": "look"},
        "metadata": {"a": "b"},
    }
    answer = await server.request("POST", RESPONSES, json={"model": "qwen", **fields})
    assert answer.status_code == 200, answer.text
    check_response(RESPONSES, answer)
    place = "/v1/responses/{response_id}"
    here = f"/v1/responses/{answer.json()['id']}"
    for query in ("", "?order=asc&limit=1"):
        items = await server.request("GET", f"{here}/input_items{query}")
        assert len(items.json()["data"]) == (1 if query else len(HISTORY))
        check_response(f"{place}/input_items", items)
    refused = await server.request("GET", f"{here}/input_items?limit=0")
    assert refused.status_code == 400
    check_response(f"{place}/input_items", refused)
    for method, status in (("GET", 200), ("DELETE", 200), ("GET", 404), ("DELETE", 404)):
        response = await server.request(method, here)
        assert response.status_code == status
        check_response(place, response)


async def test_the_document_is_served() -> None:
    response = await Server().request("GET", "/openapi.json")
    assert response.json() == read_document()
