"""Requests that stall, fill or break the server behind its parsers, whichever API they come by.

What may never end, or eat all memory, is tried in a process of its own.
"""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest

from server.settings import CacheSettings, Settings
from tests.fake_backend import FakeRenderer, Server, assert_error
from tests.fake_engine import make_chunk

pytestmark = pytest.mark.alone

ROOT = Path(__file__).resolve().parent.parent.parent
HANG_S = 20
MAX_BYTES = 1024**3
RESPONSES = "/v1/responses"
ANY_CALL = [{"type": "function", "name": "look", "parameters": {"type": "object"}}]

# The options of a union lead to themselves again.
SELF_REFERENCES = """
cycle = {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 12}}, "$ref": "#/$defs/a"}
try_schema(cycle)
"""
# Each option has thousands of constants, all the same ones.
MANY_CONSTANTS = """
option = {"type": "object", "properties": {"x": {"enum": list(range(4000))}}, "required": ["x"]}
try_schema({"$defs": {"a": option}, "oneOf": [{"$ref": "#/$defs/a"}] * 1000})
"""
REPEATED_NAMES = """
names = ["x"] * 10_000
option = {"type": "object", "properties": {"x": {"enum": list(range(2000))}}, "required": names}
try_schema({"$defs": {"a": option}, "oneOf": [{"$ref": "#/$defs/a"}] * 20})
"""
OPEN_BRACKETS = """
for _ in range(50):
    patterns = {f"p{index}": {"type": "string", "pattern": "[" * 2000} for index in range(30)}
    try_schema({"type": "object", "properties": patterns})
"""
TRY_SCHEMA = f"""
import resource
from contextlib import suppress
from server.errors import InvalidRequest
from server.grammar.output_grammar import json_schema

resource.setrlimit(resource.RLIMIT_AS, ({MAX_BYTES}, {MAX_BYTES}))

def try_schema(schema):
    with suppress(InvalidRequest):
        json_schema(schema, "response_format")
"""


@pytest.mark.parametrize("attack", [SELF_REFERENCES, MANY_CONSTANTS, REPEATED_NAMES, OPEN_BRACKETS])
def test_a_small_schema_is_judged_in_bounded_time_and_memory(attack: str) -> None:
    """This runs in the event loop, which all requests wait for."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", TRY_SCHEMA + attack],
            cwd=ROOT,
            timeout=HANG_S,
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired:
        pytest.fail("the check of a schema hangs")
    assert done.returncode == 0, done.stderr[-500:]


class ThreadsRenderer(FakeRenderer):
    """Notes which threads tokenise."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []

    def encode_prompt(self, text: str) -> tuple[int, ...]:
        self.threads.append(threading.get_ident())
        return super().encode_prompt(text)


async def complete(server: Server, prompt: Any) -> Any:
    body = {"model": "qwen", "prompt": prompt}
    return await server.request("POST", "/v1/completions", json=body)


async def test_plain_prompts_are_not_tokenised_in_the_event_loop() -> None:
    renderer = ThreadsRenderer()
    response = await complete(Server(renderer=renderer), ["a b", "c d"])
    assert response.status_code == 200
    assert renderer.threads
    assert threading.get_ident() not in renderer.threads


async def test_behind_a_plain_prompt_that_is_too_long_none_is_tokenised() -> None:
    renderer = ThreadsRenderer()
    response = await complete(Server(renderer=renderer), ["a " * 200] * 64)
    assert response.status_code == 400
    assert len(renderer.threads) == 1


async def test_a_plain_prompt_that_is_too_long_is_named_as_the_body_names_it() -> None:
    response = await complete(Server(), "a " * 200)
    assert_error(response, 400, "context_length_exceeded", "prompt")


def nest(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


DEEP_FORMAT = {"format": {"type": "json_schema", "name": "deep", "schema": nest(130)}}
DEEP_TOOL = {**ANY_CALL[0], "parameters": nest(130)}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [DEEP_TOOL], "tool_choice": "none"},
        {"tools": ANY_CALL, "tool_choice": "required", "text": DEEP_FORMAT},
    ],
    ids=["tools that are not used", "a format that is not used"],
)
async def test_a_response_repeats_no_deep_schema(fields: dict[str, Any], stream: bool) -> None:
    """It says again what is not used, and is serialised with less depth than it is parsed with."""
    body = {"model": "qwen", "input": "hi", "stream": stream, **fields}
    response = await Server().request("POST", RESPONSES, json=body)
    assert response.status_code in (200, 400), response.text
    assert "internal error" not in response.text


DEEP_CALL = {
    "type": "function_call",
    "call_id": "1",
    "name": "look",
    "arguments": orjson.dumps(nest(60)).decode(),
}
DEEP_USE = {"type": "tool_use", "id": "1", "name": "look", "input": nest(60)}
TURN = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (RESPONSES, {"input": "hi", "tools": [DEEP_TOOL]}, "tools[0].parameters"),
        (RESPONSES, {"input": [TURN, DEEP_CALL]}, "input[1].arguments"),
        (
            "/v1/messages",
            {"messages": [TURN], "tools": [{"name": "look", "input_schema": nest(60)}]},
            "tools[0].input_schema",
        ),
        (
            "/v1/messages",
            {"messages": [TURN, {"role": "assistant", "content": [DEEP_USE]}, TURN]},
            "messages[1].content[0].input",
        ),
    ],
)
async def test_what_nests_too_deeply_is_named_as_the_body_names_it(
    path: str, fields: dict[str, Any], param: str
) -> None:
    limit = {"max_tokens": 5} if path == "/v1/messages" else {}
    response = await Server().request("POST", path, json={"model": "qwen", **limit, **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert f"`{param}`" in error["message"]


@pytest.mark.parametrize(
    "text", ['{"name": "look", "arg', '{"name": "look", "arguments": {}, oops']
)
async def test_a_call_that_broke_off_is_not_in_the_kept_conversation(text: str) -> None:
    """The answer has its text once more, as text."""
    server = Server(make_chunk(f"<tool_call>\n{text}"), make_chunk("", finish="length"))
    first = {"model": "qwen", "input": "hi", "tools": ANY_CALL, "stream": True}
    streamed = (await server.request("POST", RESPONSES, json=first)).text
    events = [line.removeprefix("data: ") for line in streamed.splitlines() if "data: " in line]
    response_id = orjson.loads(events[-1])["response"]["id"]
    further = {"model": "qwen", "input": "go on", "previous_response_id": response_id}
    assert (await server.request("POST", RESPONSES, json=further)).status_code == 200
    _, answer, _ = server.renderer.calls[-1][0]
    assert answer["content"] == f"<tool_call>\n{text}"
    assert "tool_calls" not in answer


async def test_shared_images_do_not_share_conversations() -> None:
    server = Server(settings=Settings(cache=CacheSettings(tenant_salt="none")))
    body = {"model": "qwen", "input": "hi"}
    mine, theirs = ({"authorization": f"Bearer {key}"} for key in ("mine", "theirs"))
    kept = await server.request("POST", RESPONSES, json=body, headers=mine)
    path = f"{RESPONSES}/{kept.json()['id']}"
    assert (await server.request("GET", path, headers=mine)).status_code == 200
    assert (await server.request("GET", path, headers=theirs)).status_code == 404


@pytest.mark.parametrize("name", ["<img>", "a\\"])
async def test_every_unknown_field_is_named_in_a_well_formed_warning(name: str) -> None:
    response = await Server().post(**{name: 1})
    warning = response.headers["warning"]
    named = warning.removeprefix('299 - "unknown fields are ignored: ').removesuffix('"')
    assert named.strip(", ")
    assert not named.endswith("\\")
