"""The official client understands every kind of answer."""

import httpx2
import openai
import pytest

from server.engine import TokenLogprob
from server.settings import Settings
from tests.fake_backend import FakeRenderer, Server, image_part
from tests.fake_engine import make_chunk

HELLO = [{"role": "user", "content": "hi"}]


def connect(server: Server) -> openai.AsyncOpenAI:
    transport = httpx2.ASGITransport(server.app)
    return openai.AsyncOpenAI(
        base_url="http://server/v1",
        api_key="none",
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=transport),
    )


async def test_client_reads_an_answer_about_an_image():
    client = connect(Server(make_chunk("A cat.", finish="stop")))
    messages = [{"role": "user", "content": [image_part(detail="auto")]}]
    completion = await client.chat.completions.create(model="qwen", messages=messages)
    assert completion.choices[0].message.content == "A cat."
    assert completion.usage.total_tokens == 6


async def test_client_reads_a_stream_with_usage():
    client = connect(Server(make_chunk("A "), make_chunk("cat.", finish="stop")))
    stream = await client.chat.completions.create(
        model="qwen", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(delta or "" for delta in deltas) == "A cat."
    assert chunks[-1].usage.completion_tokens == 2


async def test_client_reads_logprobs():
    chunk = make_chunk("A", logprobs=(TokenLogprob(7, b"A", -0.5),), finish="stop")
    completion = await connect(Server(chunk)).chat.completions.create(
        model="qwen", messages=HELLO, logprobs=True
    )
    assert completion.choices[0].logprobs.content[0].bytes == [65]


async def test_client_can_send_an_answer_with_reasoning_back():
    renderer = FakeRenderer("thinking")
    server = Server(make_chunk("I see</think>A cat.", finish="stop"), renderer=renderer)
    client = connect(server)
    first = await client.chat.completions.create(model="qwen", messages=HELLO)
    history = [*HELLO, first.choices[0].message.model_dump(), *HELLO]
    await client.chat.completions.create(model="qwen", messages=history)
    assert server.renderer.calls[1][0][1] == {
        "role": "assistant",
        "content": "A cat.",
        "reasoning_content": "I see",
    }


async def test_client_passes_our_options_in_extra_body():
    server = Server()
    await connect(server).chat.completions.create(
        model="qwen",
        messages=[{"role": "user", "content": [image_part()]}],
        extra_body={"mm_processor_kwargs": {"max_pixels": 4096}, "top_k": 5},
    )
    assert server.pipeline.refs[0].options.max_pixels == 4096
    assert server.engine.requests[0].sampling.top_k == 5


async def test_client_lists_the_model():
    models = await connect(Server()).models.list()
    assert [model.id for model in models.data] == ["qwen"]


async def test_client_raises_bad_request_with_code_and_param():
    with pytest.raises(openai.BadRequestError) as caught:
        await connect(Server()).chat.completions.create(
            model="qwen", messages=HELLO, modalities=["text", "audio"]
        )
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "modalities")


async def test_client_can_send_a_tool_call_and_its_result_back():
    text = 'Hm.\n<tool_call>\n{"name": "look", "arguments": {"x": 1}}\n</tool_call>'
    server = Server(make_chunk(text, finish="stop"))
    client = connect(server)
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    first = await client.chat.completions.create(model="qwen", messages=HELLO, tools=tools)
    message = first.choices[0].message
    (call,) = message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": [image_part(), image_part()]}
    history = [*HELLO, message.model_dump(), result]
    await client.chat.completions.create(model="qwen", messages=history, tools=tools)
    _, answer, result = server.renderer.calls[1][0]
    function = {"name": "look", "arguments": {"x": 1}}
    assert answer == {
        "role": "assistant",
        "content": "Hm.",
        "tool_calls": [{"id": call.id, "type": "function", "function": function}],
    }
    assert result["content"] == [{"type": "image"}, {"type": "image"}]
    assert len(server.pipeline.refs) == 2


async def test_client_raises_not_found_for_another_model():
    with pytest.raises(openai.NotFoundError) as caught:
        await connect(Server()).chat.completions.create(model="gpt", messages=HELLO)
    assert caught.value.code == "model_not_found"


async def test_client_raises_for_a_body_that_is_too_large():
    server = Server(settings=Settings(server={"max_body_bytes": 1024}))
    with pytest.raises(openai.APIStatusError) as caught:
        await connect(server).chat.completions.create(
            model="qwen", messages=[{"role": "user", "content": "x" * 2000}]
        )
    assert caught.value.status_code == 413


async def test_client_raises_for_an_error_in_mid_stream():
    client = connect(Server(make_chunk("A "), RuntimeError()))
    stream = await client.chat.completions.create(model="qwen", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError, match="internal error"):
        async for _ in stream:
            pass
