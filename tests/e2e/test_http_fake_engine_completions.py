"""Plain completions, and tokens, over ASGI without a model."""

from typing import Any

import httpx
import orjson

from server.engine import TokenLogprob
from tests.fake_backend import Server, assert_error
from tests.fake_engine import make_chunk


async def complete(server: Server, prompt: Any = "a b", **fields: Any) -> httpx.Response:
    body = {"model": "qwen", "prompt": prompt, **fields}
    return await server.request("POST", "/v1/completions", json=body)


async def test_prompts_have_choices_of_their_own_and_cached_tokens_add_up():
    server = Server()
    server.engine.scripts = [
        [make_chunk(text, num_cached_tokens=cached, finish="stop")]
        for text, cached in (("one", 3), ("two", 4), ("three", 5), ("four", 5))
    ]
    body = (await complete(server, ["a b", "c"], n=2)).json()
    assert [choice["text"] for choice in body["choices"]] == ["one", "two", "three", "four"]
    assert body["usage"]["prompt_tokens"] == 3
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 4 + 5


async def test_echo_comes_before_the_answer_streamed_and_whole():
    whole = (await complete(Server(), echo=True)).json()
    assert whole["choices"][0]["text"] == "a bA cat."
    streamed = await complete(Server(), echo=True, stream=True)
    events = [line.removeprefix("data: ") for line in streamed.text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    texts = [choice["text"] for event in events for choice in orjson.loads(event)["choices"]]
    assert "".join(texts) == "a bA cat."


async def test_offsets_count_characters_however_many_tokens_they_have():
    pieces = [b"\xf0\x9f", b"\x99\x82", b"!"]
    logprobs = tuple(TokenLogprob(index, piece, -1.0) for index, piece in enumerate(pieces))
    server = Server(make_chunk("\U0001f642!", logprobs=logprobs, finish="stop"))
    choice = (await complete(server, logprobs=0)).json()["choices"][0]
    assert choice["logprobs"]["text_offset"] == [0, 0, 1]


async def test_thinking_and_chat_fields_are_unknown_here():
    response = await complete(Server(), thinking_budget=3)
    assert "thinking_budget" in response.headers["warning"]


async def test_tokens_of_a_text_and_of_a_conversation():
    server = Server()
    text = (await server.request("POST", "/tokenize", json={"prompt": "a b c"})).json()
    assert (text["count"], text["max_model_len"]) == (3, 100)
    messages = [{"role": "user", "content": "a b"}]
    chat = (await server.request("POST", "/tokenize", json={"messages": messages})).json()
    assert chat["count"] == 2 and server.engine.requests == []


async def test_tokenize_needs_one_of_both():
    response = await Server().request("POST", "/tokenize", json={"model": "qwen"})
    assert_error(response, 400, "invalid_value")
