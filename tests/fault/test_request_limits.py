"""What a body may hold, API by API: the most that is taken, and a refusal that says of one more
which field it is, what the limit is and what was given."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest

from server.body import MAX_DEPTH, MAX_ID_CHARS, MAX_MESSAGES, MAX_OBJECT_KEYS, MAX_PARTS
from server.drawing import (
    MAX_CHOICES,
    MAX_LOGIT_BIAS_ENTRIES,
    MAX_LOGPROBS,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKENS,
)
from server.grammar.limits import (
    MAX_CHOICE_BYTES,
    MAX_EBNF_BYTES,
    MAX_ENUM_VALUES,
    MAX_REGEX_CHARS,
    MAX_SCHEMA_BYTES,
)
from server.grammar.limits import (
    MAX_CHOICES as MAX_GRAMMAR_CHOICES,
)
from server.nesting import MAX_NESTING
from server.protocol import MAX_METADATA, MAX_TOOLS
from server.refused_fields import RefusedFields
from server.settings import Settings
from server.text_protocol import MAX_PROMPTS, MAX_SEQUENCES
from tests.fake_backend import IMAGE_URL, Server, image_part

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
COUNT, TOKENIZE, DETOKENIZE = "/v1/messages/count_tokens", "/tokenize", "/detokenize"
TURN = {"role": "user", "content": "hi"}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": "qwen", "messages": [TURN]},
    TEXT: {"model": "qwen", "prompt": "hi"},
    RESPONSES: {"model": "qwen", "input": "hi"},
    MESSAGES: {"model": "qwen", "messages": [TURN], "max_tokens": 5},
    COUNT: {"model": "qwen", "messages": [TURN]},
    TOKENIZE: {"model": "qwen", "messages": [TURN]},
    DETOKENIZE: {"model": "qwen", "tokens": [1]},
}
GENERATING = (CHAT, TEXT, RESPONSES, MESSAGES)

Fields = dict[str, Any]


def nest(levels: int) -> Fields:
    """An object of so many levels."""
    value: Fields = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def text_parts(number: int, kind: str = "text") -> list[Fields]:
    return [{"type": kind, "text": "a"}] * number


def turns(number: int) -> list[Fields]:
    return [TURN] * number


def many(fields: Fields) -> Callable[[int], list[Fields]]:
    return lambda number: [fields] * number


def call(index: int = 0) -> Fields:
    return {"id": str(index), "function": {"name": "f", "arguments": "{}"}}


def with_calls(number: int) -> list[Fields]:
    calls = [call(index) for index in range(number)]
    return [TURN, {"role": "assistant", "tool_calls": calls}]


def with_uses(number: int) -> list[Fields]:
    uses = [{"type": "tool_use", "id": str(i), "name": "f", "input": {}} for i in range(number)]
    results = [{"type": "tool_result", "tool_use_id": str(i)} for i in range(number)]
    return [
        TURN,
        {"role": "assistant", "content": uses},
        {"role": "user", "content": results},
    ]


def with_function_calls(number: int) -> list[Fields]:
    calls = [
        {"type": "function_call", "call_id": str(i), "name": "f", "arguments": "{}"}
        for i in range(number)
    ]
    outputs = [
        {"type": "function_call_output", "call_id": str(i), "output": "a"} for i in range(number)
    ]
    return [TURN, *calls, *outputs]


def spread(number: int, make: Callable[[list[Fields]], list[Fields]], kind: str) -> list[Fields]:
    """So many parts, half of them in one place and half in another."""
    half = number // 2
    return [*make(text_parts(half, kind)), *make(text_parts(number - half, kind))]


def chat_tool(parameters: Fields) -> Fields:
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def schema_of(num_bytes: int) -> Fields:
    empty = {"type": "string", "title": ""}
    return {**empty, "title": "t" * (num_bytes - len(orjson.dumps(empty)))}


def enum_of(number: int) -> Fields:
    return {"enum": list(range(number))}


def chat_format(schema: Fields) -> Fields:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


@dataclass(frozen=True)
class Limit:
    """`make(most)` is taken, `make(most + 1)` refused, by the name `param`."""

    path: str
    most: int
    make: Callable[[int], Fields]
    param: str

    def __str__(self) -> str:
        return f"{self.path} {self.param}"


def field(path: str, name: str, most: int, make: Callable[[int], Any], param: str = "") -> Limit:
    return Limit(path, most, lambda number: {name: make(number)}, param or name)


def short_texts(path: str, *names: str) -> list[Limit]:
    return [field(path, name, MAX_ID_CHARS, lambda number: "x" * number) for name in names]


def drawing(path: str) -> list[Limit]:
    return [
        field(
            path,
            "logit_bias",
            MAX_LOGIT_BIAS_ENTRIES,
            lambda n: dict.fromkeys(map(str, range(n)), 1),
        ),
        field(path, "stop_token_ids", MAX_STOP_TOKENS, lambda n: [1] * n),
        field(path, "top_k", 2**31 - 1, int),
        field(path, "priority", 2**31 - 1, int),
        field(path, "temperature", 2, int),
        field(path, "presence_penalty", 2, int),
        field(path, "frequency_penalty", 2, int),
        field(path, "repetition_penalty", 2, int),
        field(path, "top_p", 1, int),
        field(path, "min_p", 1, int),
    ]


def stops(path: str) -> list[Limit]:
    return [
        field(path, "stop", MAX_STOP_STRINGS, lambda n: ["a"] * n),
        field(path, "stop", MAX_STOP_CHARS, lambda n: "a" * n),
        field(path, "n", MAX_CHOICES, int),
    ]


def deep_schema(levels: int) -> Fields:
    return chat_format(nest(levels))


DEEP = MAX_NESTING + 1  # what is handed in has one more than what may be in it
LIMITS = [
    *drawing(CHAT),
    *stops(CHAT),
    *short_texts(CHAT, "model", "user", "safety_identifier", "prompt_cache_key", "service_tier"),
    field(CHAT, "metadata", MAX_METADATA, lambda n: {str(i): "a" for i in range(n)}),
    field(CHAT, "metadata", 512, lambda n: {"a": "b" * n}, "metadata.a"),
    field(CHAT, "messages", MAX_MESSAGES, turns),
    field(
        CHAT, "messages", MAX_PARTS, lambda n: spread(n, lambda p: [{**TURN, "content": p}], "text")
    ),
    field(CHAT, "messages", MAX_TOOLS, with_calls, "messages[1].tool_calls"),
    field(CHAT, "tools", MAX_TOOLS, many(chat_tool({}))),
    field(
        CHAT, "tools", MAX_NESTING, lambda n: [chat_tool(nest(n))], "tools[0].function.parameters"
    ),
    Limit(CHAT, MAX_LOGPROBS, lambda n: {"logprobs": True, "top_logprobs": n}, "top_logprobs"),
    field(
        CHAT,
        "response_format",
        MAX_SCHEMA_BYTES,
        lambda n: chat_format(schema_of(n)),
        "response_format.json_schema.schema",
    ),
    field(
        CHAT,
        "response_format",
        MAX_ENUM_VALUES,
        lambda n: chat_format(enum_of(n)),
        "response_format.json_schema.schema",
    ),
    field(
        CHAT,
        "guided_choice",
        MAX_GRAMMAR_CHOICES,
        lambda n: [str(i) for i in range(n)],
    ),
    field(CHAT, "guided_choice", MAX_CHOICE_BYTES, lambda n: ["a" * n]),
    field(CHAT, "guided_regex", MAX_REGEX_CHARS, lambda n: "a" * n),
    field(CHAT, "guided_grammar", MAX_EBNF_BYTES, lambda n: 'root ::= "a"'.ljust(n)),
    *drawing(TEXT),
    *stops(TEXT),
    *short_texts(TEXT, "model", "user"),
    field(TEXT, "prompt", MAX_PROMPTS, lambda n: ["a"] * n),
    Limit(
        TEXT,
        MAX_SEQUENCES,
        lambda n: {"prompt": ["a"] * (n // 2 if n % 2 == 0 else 43), "n": 2 if n % 2 == 0 else 3},
        "n",
    ),
    field(TEXT, "logprobs", MAX_LOGPROBS, int),
    *drawing(RESPONSES),
    *short_texts(RESPONSES, "model", "user", "safety_identifier", "prompt_cache_key"),
    field(RESPONSES, "metadata", MAX_METADATA, lambda n: {str(i): "a" for i in range(n)}),
    field(RESPONSES, "metadata", 512, lambda n: {"a": "b" * n}, "metadata.a"),
    field(RESPONSES, "input", MAX_MESSAGES, turns),
    field(
        RESPONSES,
        "input",
        MAX_PARTS,
        lambda n: spread(n, lambda p: [{**TURN, "content": p}], "input_text"),
    ),
    field(RESPONSES, "input", MAX_TOOLS, with_function_calls),
    field(
        RESPONSES,
        "input",
        MAX_PARTS,
        lambda n: [
            *with_function_calls(1)[:2],
            {"type": "function_call_output", "call_id": "0", "output": text_parts(n, "input_text")},
        ],
    ),
    field(RESPONSES, "tools", MAX_TOOLS, many({"type": "function", "name": "f"})),
    field(RESPONSES, "include", MAX_TOOLS, lambda n: ["message.output_text.logprobs"] * n),
    field(RESPONSES, "top_logprobs", MAX_LOGPROBS, int),
    field(
        RESPONSES,
        "text",
        MAX_SCHEMA_BYTES,
        lambda n: {"format": {"type": "json_schema", "name": "a", "schema": schema_of(n)}},
        "text.format.schema",
    ),
    *drawing(MESSAGES),
    *short_texts(MESSAGES, "model"),
    field(MESSAGES, "stop_sequences", MAX_STOP_STRINGS, lambda n: ["a"] * n),
    field(MESSAGES, "stop_sequences", MAX_STOP_CHARS, lambda n: ["a" * n], "stop_sequences[0]"),
    field(MESSAGES, "messages", MAX_MESSAGES, turns),
    field(
        MESSAGES,
        "messages",
        MAX_PARTS,
        lambda n: spread(n, lambda p: [{**TURN, "content": p}], "text"),
    ),
    field(MESSAGES, "messages", MAX_TOOLS, with_uses, "messages[1].content"),
    field(MESSAGES, "tools", MAX_TOOLS, many({"name": "f", "input_schema": {}})),
    field(
        MESSAGES,
        "output_config",
        MAX_SCHEMA_BYTES,
        lambda n: {"format": {"type": "json_schema", "schema": schema_of(n)}},
        "output_config.format.schema",
    ),
    *short_texts(COUNT, "model"),
    field(COUNT, "messages", MAX_MESSAGES, turns),
    field(COUNT, "tools", MAX_TOOLS, many({"name": "f", "input_schema": {}})),
    *short_texts(TOKENIZE, "model"),
    field(TOKENIZE, "messages", MAX_MESSAGES, turns),
    field(TOKENIZE, "messages", MAX_PARTS, lambda n: [{**TURN, "content": text_parts(n)}]),
    field(TOKENIZE, "tools", MAX_TOOLS, many(chat_tool({}))),
    *short_texts(DETOKENIZE, "model"),
]


async def post(server: Server, path: str, fields: Fields) -> httpx.Response:
    return await server.request("POST", path, json={**BODIES[path], **fields})


def read_error(response: httpx.Response) -> Any:
    assert 400 <= response.status_code < 500, response.text
    error = response.json()["error"]
    assert len(error["message"]) < 1000
    return error


@pytest.mark.parametrize("limit", LIMITS, ids=str)
async def test_the_most_is_taken_and_one_more_refused_by_name(limit: Limit) -> None:
    server = Server(max_model_len=1_000_000)
    taken = await post(server, limit.path, limit.make(limit.most))
    assert taken.status_code == 200 or read_error(taken)["code"] == "model_not_found", taken.text
    num_requests = len(server.engine.requests)
    error = read_error(await post(server, limit.path, limit.make(limit.most + 1)))
    assert error["message"].count(str(limit.most)) > 0, error
    assert f"`{limit.param}" in error["message"] or limit.path in (MESSAGES, COUNT), error
    assert error.get("param", limit.param) == limit.param
    assert len(server.engine.requests) == num_requests


@pytest.mark.parametrize("path", BODIES)
async def test_every_body_has_a_most_number_of_bytes(path: str) -> None:
    body = orjson.dumps(BODIES[path])
    settings = Settings(server={"max_body_bytes": 1024, "max_total_body_bytes": 10_000})
    server = Server(settings=settings)
    headers = {"content-type": "application/json"}
    for num_bytes, status in ((1024, 200), (1025, 413)):
        response = await server.request(
            "POST", path, content=body.ljust(num_bytes), headers=headers
        )
        assert response.status_code == status, response.text
    assert "1024 bytes" in read_error(response)["message"]


@pytest.mark.parametrize("path", BODIES)
async def test_every_body_has_a_most_depth(path: str) -> None:
    server = Server()
    for levels, status in ((MAX_DEPTH - 1, 200), (MAX_DEPTH, 400)):
        body = orjson.dumps(BODIES[path])[:-1] + b',"x":' + b"[" * levels + b"]" * levels + b"}"
        response = await server.request(
            "POST", path, content=body, headers={"content-type": "application/json"}
        )
        assert response.status_code == status, response.text
    assert f"{MAX_DEPTH} levels" in read_error(response)["message"]


@pytest.mark.parametrize("path", BODIES)
async def test_every_object_has_a_most_number_of_keys(path: str) -> None:
    server = Server()
    for number, status in ((MAX_OBJECT_KEYS, 200), (MAX_OBJECT_KEYS + 1, 400)):
        response = await post(server, path, {"x": {"y": {str(i): 1 for i in range(number)}}})
        assert response.status_code == status, response.text
    assert str(MAX_OBJECT_KEYS) in read_error(response)["message"]


# ---- what no client may hand in

TENSOR = "gASVKAAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAhlY2hvIHB3bpSFlFKULg=="  # a pickle
REFUSED = [name for name in RefusedFields.model_fields]


@pytest.mark.parametrize("path", [path for path in BODIES if path != DETOKENIZE])
@pytest.mark.parametrize("name", REFUSED)
async def test_tensors_templates_and_keys_of_clients_are_refused_by_name(
    path: str, name: str
) -> None:
    server = Server()
    for value in (TENSOR, {"a": TENSOR}, [TENSOR]):
        error = read_error(await post(server, path, {name: value}))
        assert f"`{name}` is not supported" in error["message"]
        assert TENSOR not in str(error)
    assert (await post(server, path, {name: None})).status_code == 200


def test_what_vllm_would_deserialise_is_among_them() -> None:
    assert {"prompt_embeds", "image_embeds", "multi_modal_data", "chat_template"} <= set(REFUSED)


@pytest.mark.parametrize("kind", ["image_embeds", "video_embeds", "prompt_embeds", "image_pil"])
@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, COUNT, TOKENIZE])
async def test_a_part_that_is_a_tensor_is_refused(path: str, kind: str) -> None:
    name = "input" if path == RESPONSES else "messages"
    part = {"type": kind, kind: TENSOR}
    error = read_error(await post(Server(), path, {name: [{**TURN, "content": [part]}]}))
    assert "type" in error["message"]
    assert TENSOR not in str(error)


async def test_a_prompt_that_is_no_text_and_no_tokens_is_refused() -> None:
    for prompt in ([{"prompt_embeds": TENSOR}], [[0.5]], {"prompt_embeds": TENSOR}, [[True]]):
        error = read_error(await post(Server(), TEXT, {"prompt": prompt}))
        assert error["param"].startswith("prompt")


KWARGS = {
    "tokenize": True,
    "chat_template": "{{ 1 }}",
    "add_generation_prompt": False,
    "continue_final_message": True,
    "documents": [{}],
    "return_tensors": "pt",
}


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
async def test_template_kwargs_other_than_the_one_that_is_known_reach_nothing(path: str) -> None:
    server = Server()
    kwargs = {**KWARGS, "enable_thinking": False}
    response = await post(server, path, {"chat_template_kwargs": kwargs})
    assert response.status_code == 200, response.text
    assert "chat_template_kwargs.tokenize" in response.headers["warning"]
    # The renderer's signature has no way to hand on more: `render(messages, *, thinking, tools)`.
    assert len(server.renderer.calls) == 1
    assert server.renderer.calls[0][1] is False


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
async def test_processor_kwargs_other_than_the_known_ones_reach_nothing(path: str) -> None:
    server = Server()
    image: Fields = image_part()
    if path == RESPONSES:
        image = {"type": "input_image", "image_url": IMAGE_URL}
    if path == MESSAGES:
        image = {"type": "image", "source": {"type": "url", "url": IMAGE_URL}}
    name = "input" if path == RESPONSES else "messages"
    kwargs = {"code_revision": "main", "trust_remote_code": True, "device": "cuda", "max_pixels": 9}
    body = {name: [{**TURN, "content": [image]}], "mm_processor_kwargs": kwargs}
    response = await post(server, path, body)
    assert response.status_code == 200, response.text
    assert "mm_processor_kwargs.code_revision" in response.headers["warning"]
    (ref,) = server.pipeline.refs
    assert ref.options.max_pixels == 9
    assert "main" not in repr(ref.options)


async def test_a_key_that_a_client_gives_an_image_reaches_nothing() -> None:
    """vLLM's `uuid` and SGLang's `mm_hashes` name what is cached; here only content does."""
    server = Server()
    parts = [{**image_part(), "uuid": "same"}, {**image_part(), "uuid": "same"}]
    response = await server.post(parts)
    assert response.status_code == 200
    assert "messages[0].content[0].uuid" in response.headers["warning"]
    assert "same" not in repr(server.pipeline.refs)
    alone = await server.post([{"type": "image_url", "image_url": None, "uuid": "same"}])
    assert read_error(alone)["param"] == "messages[0].content[0].image_url"


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
async def test_where_one_answer_is_made_more_are_refused(path: str) -> None:
    error = read_error(await post(Server(), path, {"n": 2}))
    assert "`n` is not supported" in error["message"]


@pytest.mark.parametrize("path", GENERATING)
async def test_a_penalty_below_its_range_is_refused(path: str) -> None:
    """vLLM has died of some of these."""
    for name, value in (
        ("repetition_penalty", 0),
        ("repetition_penalty", -1),
        ("presence_penalty", -3),
        ("frequency_penalty", -3),
        ("temperature", -1),
        ("top_p", 0),
        ("min_p", -0.1),
        ("top_k", -2),
    ):
        error = read_error(await post(Server(), path, {name: value}))
        assert f"`{name}`" in error["message"] and f"given: {value}" in error["message"]
