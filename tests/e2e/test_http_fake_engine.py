"""The application over ASGI, whole answers, without a model."""

import asyncio
import re

import httpx
import pytest

from multimodal.items import ImageRef, VideoRef
from multimodal.options import MediaOptions
from server.app import create_app
from server.engine import EngineDead, InvalidSampling, TokenLogprob
from server.settings import Settings
from tests.fake_backend import (
    CORRUPT_URL,
    FakeRenderer,
    Server,
    assert_error,
    image_part,
    make_body,
    video_part,
)
from tests.fake_engine import make_chunk

THINKING = {"starts_in_reasoning": True, "may_reason": True}


async def test_one_model_is_described_by_its_name():
    server = Server()
    (listed,) = (await server.request("GET", "/v1/models")).json()["data"]
    assert (await server.request("GET", f"/v1/models/{listed['id']}")).json() == listed
    assert_error(await server.request("GET", "/v1/models/other"), 404, "model_not_found")


async def test_answer_has_the_openai_shape():
    server = Server(make_chunk("A "), make_chunk("cat.", finish="stop"))
    body = (await server.post()).json()
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{32}", body.pop("id"))
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "chat.completion",
        "model": "qwen",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A cat.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 1,
            "completion_tokens": 2,
            "total_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": 0, "video_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


async def test_media_reach_the_pipeline_with_their_options():
    server = Server()
    await server.post([image_part(max_pixels=99), video_part(fps=1)])
    assert server.pipeline.refs == [
        ImageRef(b"an image", MediaOptions(max_pixels=99), "messages[0].content[0].image_url"),
        VideoRef(b"a video", MediaOptions(fps=1), "messages[0].content[1].video_url"),
    ]


async def test_engine_gets_the_expanded_prompt_and_its_items():
    server = Server()
    await server.post([image_part(), video_part()], max_tokens=7, temperature=0)
    request = server.engine.requests[0]
    assert [placed.item.modality for placed in request.items] == ["image", "video", "video"]
    assert len(request.prompt_token_ids) == 12
    assert (request.sampling.max_tokens, request.sampling.temperature) == (7, 0)


async def test_usage_tells_image_and_video_tokens_apart():
    server = Server(make_chunk("A cat.", finish="stop", num_cached_tokens=8))
    usage = (
        await server.post([image_part(), video_part(), {"type": "text", "text": "a b"}])
    ).json()
    details = usage["usage"]["prompt_tokens_details"]
    assert details == {"cached_tokens": 8, "image_tokens": 4, "video_tokens": 8}
    assert usage["usage"]["prompt_tokens"] == 14


async def test_tokens_cut_off_by_a_stop_string_are_counted():
    server = Server(
        make_chunk("", token_ids=(1, 2)), make_chunk("A", token_ids=(3,), finish="stop")
    )
    usage = (await server.post(stop="END")).json()["usage"]
    assert usage["completion_tokens"] == 3


async def test_interleaved_choices_are_put_in_order():
    server = Server(
        make_chunk("two ", index=1),
        make_chunk("one", index=0, finish="stop"),
        make_chunk("more", index=1, finish="length"),
    )
    body = (await server.post(n=2)).json()
    contents = [choice["message"]["content"] for choice in body["choices"]]
    assert contents == ["one", "two more"]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["stop", "length"]
    assert body["usage"]["completion_tokens"] == 3


async def test_logprobs_have_the_openai_form():
    other = TokenLogprob(8, "é".encode(), -2.5)
    drawn = TokenLogprob(7, b"A", -0.5, top=(other,))
    server = Server(make_chunk("A", logprobs=(drawn,), finish="stop"))
    choice = (await server.post(logprobs=True, top_logprobs=1)).json()["choices"][0]
    assert choice["logprobs"]["content"] == [
        {
            "token": "A",
            "logprob": -0.5,
            "bytes": [65],
            "top_logprobs": [{"token": "é", "logprob": -2.5, "bytes": [195, 169]}],
        }
    ]
    assert server.engine.requests[0].sampling.num_logprobs == 1


@pytest.mark.parametrize(
    ("kind", "flags", "text"),
    [
        ("thinking", THINKING, "I see\n</think>\n\nA cat."),
        ("hybrid", {"may_reason": True}, "<think>\nI see\n</think>\n\nA cat."),
    ],
)
async def test_reasoning_is_given_under_both_names(kind, flags, text):
    server = Server(make_chunk(text, finish="stop"), renderer=FakeRenderer(kind, **flags))
    body = (await server.post()).json()
    message = body["choices"][0]["message"]
    assert message["content"] == "A cat."
    assert message["reasoning_content"] == message["reasoning"] == "I see"
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


async def test_hybrid_answer_without_reasoning_has_null_reasoning():
    renderer = FakeRenderer("hybrid", may_reason=True)
    message = (await Server(renderer=renderer).post()).json()["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("A cat.", None)


async def test_instruct_answer_keeps_tags_as_text():
    server = Server(make_chunk("<think>x</think>y", finish="stop"))
    message = (await server.post()).json()["choices"][0]["message"]
    assert message["content"] == "<think>x</think>y"
    assert "reasoning_content" not in message and "reasoning" not in message


async def test_thinking_that_is_cut_has_no_content():
    renderer = FakeRenderer("thinking", **THINKING)
    server = Server(make_chunk("I see </th", finish="length"), renderer=renderer)
    choice = (await server.post()).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] is None
    assert choice["message"]["reasoning_content"] == "I see </th"


async def test_thinking_switch_reaches_a_hybrid_template():
    server = Server(renderer=FakeRenderer("hybrid"))
    await server.post(chat_template_kwargs={"enable_thinking": False})
    assert server.renderer.calls[0][1] is False


async def test_thinking_switch_is_refused_where_there_is_no_choice():
    response = await Server().post(chat_template_kwargs={"enable_thinking": True})
    param = "chat_template_kwargs.enable_thinking"
    assert "instruct" in assert_error(response, 400, "unsupported_parameter", param)


async def test_another_model_is_not_found():
    response = await Server().post(model="gpt")
    assert "qwen" in assert_error(response, 404, "model_not_found", "model")


async def test_text_that_fills_the_context_is_refused_before_media_are_loaded():
    server = Server(max_model_len=5)
    response = await server.post([{"type": "text", "text": "a b c d e f"}, image_part()])
    message = assert_error(response, 400, "context_length_exceeded", "messages")
    assert "7 tokens" in message and "5" in message
    assert server.pipeline.refs == []


@pytest.mark.parametrize(("max_model_len", "room"), [(100, 97), (5, 2)])
async def test_pipeline_is_told_how_many_tokens_fit(max_model_len, room):
    server = Server(max_model_len=max_model_len)
    await server.post([{"type": "text", "text": "a b"}, image_part()])
    assert server.pipeline.max_tokens == room


async def test_media_that_fill_the_context_are_refused():
    server = Server(max_model_len=5)
    response = await server.post([image_part(), image_part()])
    message = assert_error(response, 400, "context_length_exceeded", "messages")
    assert "8 tokens" in message and server.engine.requests == []


async def test_corrupt_image_points_at_its_part():
    response = await Server().post([image_part(), image_part(CORRUPT_URL)])
    assert_error(response, 422, "image_corrupt", "messages[0].content[1].image_url")


async def test_body_over_the_limit_is_refused():
    settings = Settings(server={"max_body_bytes": 1024})
    assert_error(await Server(settings=settings).post("x" * 2000), 413, "body_too_large")


async def test_invalid_json_is_refused():
    response = await Server().request(
        "POST",
        "/v1/chat/completions",
        content=b"{",
        headers={"content-type": "application/json"},
    )
    assert_error(response, 400, "invalid_json")


async def test_form_body_is_refused():
    response = await Server().request("POST", "/v1/chat/completions", data={"model": "qwen"})
    assert_error(response, 415, "unsupported_content_type")


async def test_sampling_that_the_engine_refuses_is_a_400():
    response = await Server(InvalidSampling("no such token")).post()
    assert assert_error(response, 400, "invalid_sampling") == "no such token"


async def test_engine_that_dies_is_a_503():
    server = Server(make_chunk("A "), EngineDead())
    response = await server.post()
    assert_error(response, 503, "engine_dead")
    assert "retry-after" in response.headers


@pytest.mark.parametrize("finish", ["error", "abort"])
async def test_engine_that_gives_up_is_a_500(finish):
    response = await Server(make_chunk("A "), make_chunk("", finish=finish)).post()
    assert_error(response, 500, "engine_error")


async def test_engine_that_ends_without_a_finish_reason_is_a_500():
    assert_error(await Server(make_chunk("A ")).post(), 500, "engine_error")


async def test_unknown_exception_hides_its_words():
    response = await Server(RuntimeError("/secret")).post()
    message = assert_error(response, 500, "internal_error")
    assert response.headers["x-request-id"] in message and "secret" not in message


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/openapi.json", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
    ],
)
async def test_route_that_does_not_exist_has_the_error_shape(method, path, status, code):
    assert_error(await Server().request(method, path), status, code)


async def test_sane_request_id_is_echoed():
    response = await Server().request("GET", "/health", headers={"x-request-id": "trace-1.A_b"})
    assert response.headers["x-request-id"] == "trace-1.A_b"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "<script>"])
async def test_other_request_id_is_replaced(given):
    response = await Server().request("GET", "/health", headers={"x-request-id": given})
    assert re.fullmatch(r"req-[0-9a-f]{32}", response.headers["x-request-id"])


async def test_equal_request_ids_are_different_requests_to_the_engine():
    server = Server()
    for _ in range(2):
        await server.request(
            "POST", "/v1/chat/completions", json=make_body(), headers={"x-request-id": "same"}
        )
    first, second = server.engine.requests
    assert first.request_id != second.request_id


async def test_one_request_too_many_is_refused_at_once():
    release = asyncio.Event()
    settings = Settings(server={"max_concurrent_requests": 1})
    server = Server(release, make_chunk("A cat.", finish="stop"), settings=settings)
    first = asyncio.create_task(server.post())
    await server.engine.has_started.wait()
    second = await server.post()
    assert_error(second, 503, "overloaded")
    assert "retry-after" in second.headers
    release.set()
    assert (await first).status_code == 200
    assert (await server.post()).status_code == 200


async def test_place_is_free_again_after_a_failure():
    server = Server(RuntimeError(), settings=Settings(server={"max_concurrent_requests": 1}))
    await server.post()
    assert_error(await server.post(), 500, "internal_error")


async def test_models_lists_what_is_served():
    response = await Server(max_model_len=77, random_weights=True).request("GET", "/v1/models")
    model = response.json()["data"][0]
    assert isinstance(model.pop("created"), int)
    assert model == {
        "id": "qwen",
        "object": "model",
        "owned_by": "qwen3vl-serve",
        "max_model_len": 77,
        "kind": "instruct",
        "random_weights": True,
    }


async def test_health_names_the_model_class():
    response = await Server(implementation="vllm.Stock").request("GET", "/health")
    assert (response.status_code, response.json()["implementation"]) == (200, "vllm.Stock")


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_head_is_answered_like_get_without_a_body(path):
    server = Server()
    response = await server.request("HEAD", path)
    assert (response.status_code, response.content) == (200, b"")
    server.engine.is_dead = True
    assert (await server.request("HEAD", path)).status_code == 503


async def test_dead_engine_is_neither_healthy_nor_ready():
    server = Server()
    server.engine.is_dead = True
    for path in ("/health", "/ready"):
        assert_error(await server.request("GET", path), 503, "engine_dead")


async def test_loading_server_is_healthy_and_not_ready():
    server = Server(is_loaded=False)
    assert (await server.request("GET", "/health")).json()["status"] == "loading"
    assert_error(await server.request("GET", "/ready"), 503, "not_ready")
    assert_error(await server.request("GET", "/v1/models"), 503, "not_ready")
    chat = await server.post()
    assert_error(chat, 503, "not_ready")
    assert "retry-after" in chat.headers


async def test_server_becomes_ready_when_the_model_is_loaded():
    server = Server(is_loaded=False)

    async def load_backend():
        return server.backend

    await server.state.load(load_backend)
    assert (await server.request("GET", "/ready")).status_code == 200


async def test_model_that_cannot_be_loaded_is_unhealthy():
    server = Server(is_loaded=False)

    async def load_backend():
        raise OSError("no weights")

    await server.state.load(load_backend)
    assert_error(await server.request("GET", "/health"), 503, "load_failed")


async def test_draining_server_refuses_chats_and_is_not_ready():
    server = Server()
    server.state.drain()
    assert_error(await server.post(), 503, "shutting_down")
    assert_error(await server.request("GET", "/ready"), 503, "shutting_down")
    assert (await server.request("GET", "/health")).status_code == 200


@pytest.mark.parametrize(
    ("script", "content", "outcome", "status"),
    [
        ([make_chunk("A cat.", finish="stop")], "hi", "done", "200"),
        ([RuntimeError()], "hi", "error", "500"),
        ([], [image_part(CORRUPT_URL)], "rejected", "422"),
        ([], 5, "rejected", "400"),
    ],
)
async def test_request_is_counted_once_by_its_outcome(script, content, outcome, status):
    server = Server(*script)
    await server.post(content)
    counted = [
        (sample.labels, sample.value)
        for family in server.state.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "qwen3vl_requests_total"
    ]
    assert counted == [({"outcome": outcome, "status": status}, 1)]
    assert server.sample("qwen3vl_requests_in_flight") == 0


async def test_metrics_count_tokens_media_and_times():
    server = Server(make_chunk("A cat.", finish="stop"))
    await server.post([image_part(), {"type": "text", "text": "what is it"}])
    assert server.sample("qwen3vl_prompt_tokens_total", kind="text") == 3
    assert server.sample("qwen3vl_prompt_tokens_total", kind="image") == 4
    assert server.sample("qwen3vl_completion_tokens_total") == 2
    assert server.sample("qwen3vl_media_items_total", modality="image") == 1
    assert server.sample("qwen3vl_media_bytes_total") == len(b"an image")
    for name in ("time_to_first_token", "request", "media_load"):
        assert server.sample(f"qwen3vl_{name}_seconds_count") == 1


async def test_metrics_are_prometheus_text():
    response = await Server().request("GET", "/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert "# TYPE qwen3vl_requests_in_flight gauge" in response.text


async def test_lifespan_loads_in_the_background_and_closes_at_the_end():
    server = Server(is_loaded=False)
    closed = asyncio.Event()

    async def close():
        closed.set()

    server.pipeline.close = close

    async def load_backend():
        return server.backend

    app = create_app(server.state, load_backend)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            while (await client.get("/ready")).status_code == 503:
                await asyncio.sleep(0)
    assert closed.is_set() and server.state.is_draining
