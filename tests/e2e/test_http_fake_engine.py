"""The application over ASGI, whole answers, without a model."""

import asyncio
import re

import httpx
import pytest

from multimodal.items import ImageRef, VideoRef
from multimodal.options import MediaOptions
from server.app import create_app
from server.engine import EngineDead, InvalidSampling, TokenLogprob
from server.errors import InvalidRequest
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


async def test_choices_are_put_in_order():
    server, is_second_over = Server(), asyncio.Event()
    server.engine.scripts = [
        [is_second_over, make_chunk("one", finish="stop")],
        [make_chunk("two "), make_chunk("more", finish="length")],
    ]
    posting = asyncio.create_task(server.post(n=2))
    while len(server.engine.requests) < 2:
        await asyncio.sleep(0)
    is_second_over.set()
    body = (await posting).json()
    contents = [choice["message"]["content"] for choice in body["choices"]]
    assert contents == ["one", "two more"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["stop", "length"]
    assert body["usage"]["prompt_tokens"] == 1
    assert body["usage"]["completion_tokens"] == 3


async def test_choices_are_requests_of_their_own_to_the_engine():
    server = Server()
    await server.post([image_part()], n=3, seed=7, temperature=0, priority=-2)
    first, *others = server.engine.requests
    assert [request.sampling.seed for request in server.engine.requests] == [7, 8, 9]
    assert len({request.request_id for request in server.engine.requests}) == 3
    assert len(server.pipeline.refs) == 1
    for request in others:
        assert (request.prompt_token_ids, request.items) == (first.prompt_token_ids, first.items)
    assert {request.priority for request in server.engine.requests} == {-2}


async def test_error_of_one_choice_ends_all():
    server = Server()
    server.engine.scripts = [[make_chunk("A "), asyncio.Event()], [RuntimeError()]]
    assert_error(await server.post(n=2), 500, "internal_error")
    assert len(server.engine.aborted) == 2


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


@pytest.mark.parametrize("kind", ["thinking", "hybrid"])
async def test_reasoning_is_given_under_both_names(kind):
    text = "I see\n</think>\n\nA cat."
    server = Server(make_chunk(text, finish="stop"), renderer=FakeRenderer(kind))
    body = (await server.post()).json()
    message = body["choices"][0]["message"]
    assert message["content"] == "A cat."
    assert message["reasoning_content"] == message["reasoning"] == "I see"
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    assert body["usage"]["completion_tokens"] == 5


async def test_reasoning_without_a_word_is_null():
    server = Server(make_chunk("</think>A cat.", finish="stop"), renderer=FakeRenderer("hybrid"))
    message = (await server.post()).json()["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("A cat.", None)


@pytest.mark.parametrize("kind", ["thinking", "hybrid"])
async def test_answer_without_thinking_has_no_reasoning(kind):
    server = Server(make_chunk("x</think>A cat.", finish="stop"), renderer=FakeRenderer(kind))
    message = (await server.post(enable_thinking=False)).json()["choices"][0]["message"]
    assert message["content"] == "x</think>A cat."
    assert "reasoning_content" not in message
    assert server.renderer.calls[0][1] is False
    assert server.engine.requests[0].starts_in_reasoning is False


async def test_instruct_answer_keeps_tags_as_text():
    server = Server(make_chunk("<think>x</think>y", finish="stop"))
    message = (await server.post()).json()["choices"][0]["message"]
    assert message["content"] == "<think>x</think>y"
    assert "reasoning_content" not in message and "reasoning" not in message


async def test_thinking_that_is_cut_has_no_content():
    server = Server(make_chunk("I see </th", finish="length"), renderer=FakeRenderer("thinking"))
    choice = (await server.post()).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] is None
    assert choice["message"]["reasoning_content"] == "I see </th"


async def test_thinking_switch_reaches_a_hybrid_template():
    server = Server(renderer=FakeRenderer("hybrid"))
    await server.post(chat_template_kwargs={"enable_thinking": False})
    await server.post(chat_template_kwargs={"enable_thinking": True})
    assert [thinking for _, thinking in server.renderer.calls] == [False, True]
    assert [r.starts_in_reasoning for r in server.engine.requests] == [False, True]


async def test_thinking_switch_is_refused_where_there_is_no_choice():
    response = await Server().post(chat_template_kwargs={"enable_thinking": True})
    param = "chat_template_kwargs.enable_thinking"
    assert "instruct" in assert_error(response, 400, "unsupported_parameter", param)


async def test_thinking_beyond_its_budget_is_ended():
    server = Server(renderer=FakeRenderer("thinking"))
    server.engine.scripts = [
        [make_chunk("one two three"), make_chunk("four"), asyncio.Event()],
        [make_chunk("A cat.", finish="stop")],
    ]
    settings = server.state.settings.thinking
    body = (await server.post(thinking_budget=2, max_tokens=60, seed=3)).json()
    message, usage = body["choices"][0]["message"], body["usage"]
    assert message["reasoning"] == f"t0 t1\n\n{settings.early_stopping_text}"
    assert message["content"] == "A cat."
    thought, answered = server.engine.requests
    assert server.engine.aborted == [thought.request_id]
    num_inserted = len(settings.early_stopping_text.split()) + 1
    assert len(answered.prompt_token_ids) == 1 + 2 + num_inserted
    assert usage["completion_tokens"] == 2 + num_inserted + 2
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 2 + num_inserted - 1
    assert usage["prompt_tokens"] == 1


async def test_thinking_that_ends_within_its_budget_aborts_nothing():
    script = [make_chunk("one two"), make_chunk("three", finish="length")]
    server = Server(*script, renderer=FakeRenderer("thinking"))
    choice = (await server.post(thinking_budget=9)).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "length")
    assert server.engine.aborted == []


async def test_unknown_fields_are_named_in_a_header_of_the_answer():
    for fields in ({"temprature": 1, "x": 2}, {"temprature": 1, "x": 2, "stream": True}):
        response = await Server().post(**fields)
        assert response.status_code == 200
        assert response.headers["warning"] == '299 - "unknown fields are ignored: temprature, x"'
    assert "warning" not in (await Server().post()).headers


async def test_known_parameter_without_support_is_refused_by_name():
    response = await Server().post(chat_template="{{ messages }}")
    assert_error(response, 400, "unsupported_parameter", "chat_template")


@pytest.mark.parametrize("included", [False, True])
async def test_stop_string_ends_its_own_engine_request(included):
    server, never = Server(), asyncio.Event()
    server.engine.scripts = [
        [make_chunk("one ST"), make_chunk("OP two"), never],
        [make_chunk("three", finish="stop")],
    ]
    body = (await server.post(stop="STOP", n=2, include_stop_str_in_output=included)).json()
    first, second = body["choices"]
    assert first["message"]["content"] == ("one STOP" if included else "one ")
    assert (first["finish_reason"], second["message"]["content"]) == ("stop", "three")
    assert server.engine.aborted == [server.engine.requests[0].request_id]


async def test_stop_string_in_the_reasoning_is_none():
    chunks = [make_chunk("STOP"), make_chunk("</think>A STOP"), asyncio.Event()]
    server = Server(*chunks, renderer=FakeRenderer("thinking"))
    message = (await server.post(stop=["STOP"])).json()["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == ("STOP", "A ")


async def test_engine_gets_what_ends_an_answer():
    server = Server()
    await server.post(stop_token_ids=[5], min_tokens=3, stop="x")
    sampling = server.engine.requests[0].sampling
    assert (sampling.stop_token_ids, sampling.min_tokens) == ((5,), 3)


LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "look", "arguments": {"x": 1}}\n</tool_call>'


async def test_tool_call_has_the_openai_shape():
    server = Server(make_chunk(f"I look.\n{CALL}", finish="stop"))
    choice = (await server.post(tools=[LOOK])).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    (call,) = message.pop("tool_calls")
    assert message == {"role": "assistant", "content": "I look.", "refusal": None}
    assert re.fullmatch(r"call_[0-9a-f]{24}", call.pop("id"))
    function = {"name": "look", "arguments": '{"x": 1}'}
    assert call == {"type": "function", "function": function}
    assert [tool["function"]["name"] for tool in server.renderer.tools] == ["look"]
    assert server.engine.requests[0].sampling.structural_tag is None


@pytest.mark.parametrize("fields", [{}, {"tools": [LOOK], "tool_choice": "none"}])
async def test_call_without_tools_is_text(fields):
    server = Server(make_chunk(CALL, finish="stop"))
    choice = (await server.post(**fields)).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (CALL, "stop")
    assert not server.renderer.tools


async def test_format_of_the_answer_is_checked_and_reaches_the_engine():
    server = Server()
    await server.post(response_format={"type": "json_object"})
    (checked,) = server.grammars.checked
    assert server.engine.requests[0].sampling.structural_tag == checked.structural_tag
    assert checked.param == "response_format"


async def test_format_that_is_refused_never_reaches_the_engine():
    server = Server()

    async def check(grammar, client_id):
        raise InvalidRequest("too large", "invalid_value", grammar.param)

    server.grammars.check = check
    response = await server.post([image_part()], guided_regex="a")
    assert_error(response, 400, "invalid_value", "guided_regex")
    assert server.pipeline.refs == [] and server.engine.requests == []


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
        "root": "qwen",
        "parent": None,
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
    labels = {"endpoint": "/v1/chat/completions", "outcome": outcome, "status": status}
    assert counted == [(labels, 1)]
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
