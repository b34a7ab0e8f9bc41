"""Who may use the server and how much of it, over ASGI, without a model."""

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import HTMLResponse

from server.access.allowance import Allowances
from server.access.operator_paths import OPERATOR_PATHS
from server.settings import AccessSettings, CacheSettings, ServerSettings, Settings
from tests.api_document import check_response, read_document
from tests.api_keys import bearer, write_key_file
from tests.fake_backend import Server, assert_error, image_part, make_body
from tests.fake_engine import make_chunk

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
OPENAI_PATHS = (CHAT, "/v1/completions", "/v1/responses", "/tokenize", "/detokenize")
ANTHROPIC_PATHS = (MESSAGES, "/v1/messages/count_tokens")
USER, ADMIN = "sk-qwen3vl-user", "sk-qwen3vl-admin"
ORIGIN = "https://page.example"


class Guarded(Server):
    """The application with a file of API keys."""

    def __init__(
        self,
        path: Path,
        *script: Any,
        server: dict[str, Any] | None = None,
        cache: CacheSettings | None = None,
        **access: Any,
    ) -> None:
        settings = Settings(
            server=ServerSettings(**(server or {})),
            access=AccessSettings(api_keys_file=path, **access),
            cache=cache or CacheSettings(),
        )
        super().__init__(*script, settings=settings)

    async def chat(self, api_key: str = USER, **fields: Any) -> httpx.Response:
        headers = bearer(api_key)
        return await self.request("POST", CHAT, json=make_body(**fields), headers=headers)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """The one of the limits; it stands still."""
    return Clock()


@pytest.fixture(autouse=True)
def allowances(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Allowances:
    """Those of the server of a test."""
    allowances = Allowances(clock)
    monkeypatch.setattr("server.access.gate.Allowances", lambda: allowances)
    return allowances


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def make(key_file: Path) -> Callable[..., Guarded]:
    """A server for one user, with its limits in the file."""

    def make(*script: Any, server: dict[str, Any] | None = None, **limits: Any) -> Guarded:
        return Guarded(write_key_file(key_file, {"key": USER, **limits}), *script, server=server)

    return make


@pytest.fixture
def guarded(key_file: Path) -> Guarded:
    """A server for a user and an admin."""
    return Guarded(write_key_file(key_file, {"key": USER}, {"key": ADMIN, "role": "admin"}))


def assert_unauthorized(response: httpx.Response) -> str:
    message = assert_error(response, 401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-request-id"]
    return message


def assert_limited(response: httpx.Response, kind: str = "requests") -> int:
    """Returns: the seconds to wait."""
    assert response.status_code == 429, response.text
    error = response.json()["error"]
    assert (error["type"], error["code"], error["param"]) == (kind, "rate_limit_exceeded", None)
    return int(response.headers["retry-after"])


# ---- keys


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {USER}"},
        {"authorization": f"bearer {USER}"},
        {"authorization": f"BEARER   {USER}"},
        {"x-api-key": USER},
        {"x-api-key": USER, "authorization": f"Bearer {USER}"},
    ],
)
async def test_a_key_is_taken_from_either_header(guarded, headers):
    response = await guarded.request("POST", CHAT, json=make_body(), headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {USER}"},
        {"authorization": f"Bearer {USER.upper()}"},
        {"authorization": f"Bearer {USER}", "x-api-key": "wrong"},
        {"authorization": "Bearer wrong", "x-api-key": USER},
        {"authorization": f"Bearer {USER}", "x-api-key": ADMIN},
        [("authorization", f"Bearer {USER}"), ("authorization", f"Bearer {ADMIN}")],
        {"x-api-key": "wrong"},
        {"cookie": f"api_key={USER}"},
    ],
)
@pytest.mark.parametrize("path", OPENAI_PATHS)
async def test_without_a_valid_key_nothing_is_answered(guarded, path, headers):
    response = await guarded.request("POST", path, json=make_body(), headers=headers)
    message = assert_unauthorized(response)
    assert "wrong" not in message and USER not in message
    check_response(path, response)
    assert guarded.engine.requests == []


@pytest.mark.parametrize("path", ANTHROPIC_PATHS)
async def test_a_refusal_has_the_shape_of_the_api_that_was_asked(guarded, path):
    response = await guarded.request("POST", path, json={})
    assert response.status_code == 401
    assert response.json()["type"] == "error"
    assert response.json()["error"]["type"] == "authentication_error"
    check_response(path, response)


async def test_a_refused_body_is_not_read(guarded):
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("the body is read")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers}
    await guarded.app({**scope, "query_string": b""}, receive, send)
    assert sent[0]["status"] == 401


@pytest.mark.parametrize("path", ["/health", "/ready", "/health?details=0"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_probes_need_no_key(guarded, method, path):
    assert (await guarded.request(method, path)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/version"),
        ("GET", "/openapi.json"),
        ("GET", "/nowhere"),
        ("GET", "/health/"),
        ("GET", "/ui"),
        ("GET", "/HEALTH"),
        ("GET", "/health?details=1"),
        ("GET", "/health?details=0&details=1"),
        ("GET", "/health?details=x"),
        ("POST", "/v1/vision/encode"),
        ("DELETE", "/v1/responses/resp_1"),
        ("OPTIONS", CHAT),
    ],
)
async def test_everything_else_needs_one(guarded, method, path):
    assert_unauthorized(await guarded.request(method, path))


async def test_every_documented_operation_needs_a_key(make):
    server, open_paths = make(), {"/health", "/ready", "/metrics"}
    for path, operations in read_document()["paths"].items():
        for method in operations:
            response = await server.request(method.upper(), path.replace("{", "").replace("}", ""))
            assert (response.status_code == 401) == (path not in open_paths), path


async def test_nobody_gets_in_by_the_hash(guarded, key_file):
    for entry in json.loads(key_file.read_text())["keys"]:
        for text in (entry["hash"], entry["hash"].removeprefix("sha256:"), entry["name"]):
            if text not in (USER, ADMIN):
                assert_unauthorized(await guarded.chat(text))


async def test_no_key_is_in_an_answer_or_a_log(guarded, caplog):
    caplog.set_level(logging.DEBUG)
    for headers in (bearer("sk-wrong"), {"x-api-key": "sk-wrong"}, bearer(USER)):
        response = await guarded.request("POST", CHAT, json=make_body(), headers=headers)
        for secret in ("sk-wrong", USER):
            assert secret not in response.text + str(response.headers) + caplog.text


async def test_a_key_that_is_taken_out_of_the_file_is_refused(guarded, key_file):
    assert (await guarded.chat()).status_code == 200
    write_key_file(key_file, {"key": ADMIN, "role": "admin"}, {"key": "fresh"})
    await guarded.app.state.key_ring.refresh()
    assert_unauthorized(await guarded.chat())
    assert (await guarded.chat("fresh")).status_code == 200


async def test_refusals_are_counted(make):
    server = make(requests_per_minute=1)
    await server.chat("wrong")
    await server.chat()
    await server.chat()
    await server.request("GET", "/v1/models")
    for status, count in (("401", 1), ("429", 1)):
        labels = {"outcome": "rejected", "status": status}
        assert server.sample("qwen3vl_requests_total", **labels) == count
    assert server.sample("qwen3vl_requests_total", outcome="done", status="200") == 1


async def test_without_a_file_every_client_is_who_its_key_says():
    server = Server()
    for headers in ({}, bearer("anything"), {**bearer("a"), "x-api-key": "b"}):
        body = make_body([image_part()])
        assert (await server.request("POST", CHAT, json=body, headers=headers)).status_code == 200
    first, second, third = server.pipeline.tenants
    assert first == "" and len({first, second, third}) == 3


# ---- operators


GETS = ("/health?details=1", "/is_sleeping", "/metrics")
OPERATIONS = [
    ("GET" if path in GETS else "POST", path)
    for path in sorted(OPERATOR_PATHS | {"/health?details=1"})
]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_operators_routes_need_an_admin_key_if_there_is_one(guarded, method, path):
    assert_unauthorized(await guarded.request(method, path))
    refused = await guarded.request(method, path, headers=bearer(USER))
    assert_error(refused, 403, "admin_key_required")
    admitted = await guarded.request(method, path, headers=bearer(ADMIN))
    assert admitted.status_code in (200, 404)  # most are turned off


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_operators_routes_need_any_key_if_there_is_no_admin(make, method, path):
    server = make()
    refused = await server.request(method, path)
    if path == "/metrics":
        assert refused.status_code == 200
    else:
        assert_unauthorized(refused)
    assert (await server.request(method, path, headers=bearer(USER))).status_code in (200, 404)


async def test_metrics_are_shut_as_soon_as_there_is_an_admin(make, key_file):
    server = make()
    assert (await server.request("GET", "/metrics")).status_code == 200
    write_key_file(key_file, {"key": ADMIN, "role": "admin"})
    await server.app.state.key_ring.refresh()
    assert_unauthorized(await server.request("GET", "/metrics"))


async def test_an_admin_may_do_what_others_may(guarded):
    assert (await guarded.chat(ADMIN)).status_code == 200


# ---- tenants


async def test_keys_do_not_share_the_cache_nor_kept_responses(key_file):
    write_key_file(key_file, {"key": "a"}, {"key": "b"})
    server = Guarded(key_file)
    for api_key in ("a", "b", "a"):
        await server.chat(api_key, content=[image_part()])
    first, second, third = server.pipeline.tenants
    assert first == third != second and "" not in (first, second)
    assert [request.tenant for request in server.engine.requests] == [first, second, third]
    body = {"model": "qwen", "input": "hi"}
    kept = await server.request("POST", "/v1/responses", json=body, headers=bearer("a"))
    place = f"/v1/responses/{kept.json()['id']}"
    assert (await server.request("GET", place, headers=bearer("a"))).status_code == 200
    assert_error(
        await server.request("GET", place, headers=bearer("b")),
        404,
        "response_not_found",
        "response_id",
    )


async def test_keys_share_the_cache_if_that_is_asked_for(key_file):
    write_key_file(key_file, {"key": "a"}, {"key": "b"})
    server = Guarded(key_file, cache=CacheSettings(tenant_salt="none"))
    for api_key in ("a", "b"):
        await server.chat(api_key, content=[image_part()])
    assert server.pipeline.tenants == ["", ""]


# ---- limits


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_tell_what_is_left(make, stream):
    server = make(requests_per_minute=60, tokens_per_minute=1000)
    response = await server.chat(content="one two three", stream=stream)
    headers = response.headers
    assert headers["x-ratelimit-limit-requests"] == "60"
    assert headers["x-ratelimit-remaining-requests"] == "59"
    assert headers["x-ratelimit-limit-tokens"] == "1000"
    # 3 of the prompt; the 2 of the answer are known when a whole one is sent
    assert headers["x-ratelimit-remaining-tokens"] == ("997" if stream else "995")
    assert headers["x-ratelimit-reset-requests"] == "1s"
    after = await server.chat(content="one")
    assert after.headers["x-ratelimit-remaining-tokens"] == "992"


async def test_errors_tell_what_is_left(make):
    server = make(requests_per_minute=2)
    wrong = await server.request("POST", CHAT, json={}, headers=bearer(USER))
    assert wrong.status_code == 400
    assert wrong.headers["x-ratelimit-remaining-requests"] == "1"
    await server.chat()
    refused = await server.chat()
    assert assert_limited(refused) == 30
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    check_response(CHAT, refused)


async def test_without_limits_nothing_is_told(guarded):
    assert not [name for name in (await guarded.chat()).headers if "ratelimit" in name]


async def test_the_limits_of_the_settings_are_those_of_keys_without(key_file):
    write_key_file(key_file, {"key": "a"}, {"key": "b", "requests_per_minute": 7})
    server = Guarded(key_file, requests_per_minute=5)
    for api_key, limit in (("a", "5"), ("b", "7")):
        assert (await server.chat(api_key)).headers["x-ratelimit-limit-requests"] == limit


async def test_keys_have_limits_of_their_own(key_file):
    server = Guarded(write_key_file(key_file, {"key": "a"}, {"key": "b"}), requests_per_minute=1)
    assert [(await server.chat(key)).status_code for key in "abab"] == [200, 200, 429, 429]


async def test_api_processes_share_limits_out(make):
    server = make(server={"api_workers": 4}, requests_per_minute=10)
    assert (await server.chat()).headers["x-ratelimit-limit-requests"] == "3"


async def test_a_prompt_beyond_the_tokens_left_never_reaches_the_engine(make):
    server = make(tokens_per_minute=10)
    refused = await server.chat(content=" ".join("word" for _ in range(11)))
    assert_limited(refused, "tokens")
    assert server.engine.requests == []
    assert refused.headers["x-ratelimit-remaining-tokens"] == "10"


async def test_the_tokens_of_images_count(make):
    server = make(tokens_per_minute=100)
    response = await server.chat(content=[image_part()])
    assert response.headers["x-ratelimit-remaining-tokens"] == "94"  # 4 of the image, 2 answered


@pytest.mark.parametrize("stream", [False, True])
async def test_long_answers_delay_what_comes_next(make, stream):
    answer = make_chunk(" ".join("word" for _ in range(30)))
    server = make(answer, make_chunk("", finish="stop"), tokens_per_minute=20)
    assert (await server.chat(stream=stream)).status_code == 200
    # 1 + 30 of 20 are used; the debt of 11 and one token come back in 36 s
    assert assert_limited(await server.chat(), "tokens") == 36


async def test_tokens_of_a_stream_that_fails_count(make):
    answer = make_chunk(" ".join("word" for _ in range(9)))
    server = make(answer, RuntimeError("a bug"), tokens_per_minute=100)
    await server.chat(stream=True)
    response = await server.request("POST", "/tokenize", json={"prompt": "a"}, headers=bearer(USER))
    assert response.headers["x-ratelimit-remaining-tokens"] == "90"


async def test_requests_at_once_are_bounded_and_places_come_back(make):
    may_end = asyncio.Event()
    server = make(may_end, make_chunk("A", finish="stop"), max_concurrent=1)
    first = asyncio.create_task(server.chat())
    await server.engine.has_started.wait()
    assert assert_limited(await server.chat()) == 1
    may_end.set()
    assert (await first).status_code == 200
    assert (await server.chat()).status_code == 200


async def test_a_place_comes_back_from_a_request_that_fails(make):
    server = make(RuntimeError("a bug"), max_concurrent=1)
    for _ in range(3):
        assert (await server.chat()).status_code == 500


async def test_anthropics_clients_get_its_error(make):
    server = make(requests_per_minute=1)
    await server.chat()
    response = await server.request("POST", MESSAGES, json={}, headers={"x-api-key": USER})
    assert response.status_code == 429
    assert response.json()["error"]["type"] == "rate_limit_error"
    check_response(MESSAGES, response)


async def test_lists_and_operators_routes_are_not_counted(make):
    server = make(requests_per_minute=1)
    for _ in range(3):
        models = await server.request("GET", "/v1/models", headers=bearer(USER))
        assert models.status_code == 200
        await server.request("POST", "/sleep", headers=bearer(USER))
    assert (await server.chat()).status_code == 200


async def test_keys_that_are_gone_take_no_memory(make, key_file, allowances):
    server = make()
    await server.chat()
    for number in range(3):
        write_key_file(key_file, {"key": f"key-{number}"})
        await server.app.state.key_ring.refresh()
        assert (await server.chat(f"key-{number}")).status_code == 200
        assert len(allowances) == 1


async def test_a_minute_later_all_is_back(make, clock):
    server = make(requests_per_minute=2, tokens_per_minute=1000)
    assert [(await server.chat()).status_code for _ in range(3)] == [200, 200, 429]
    clock.now_s += 60
    response = await server.chat()
    assert response.headers["x-ratelimit-remaining-requests"] == "1"
    assert response.headers["x-ratelimit-remaining-tokens"] == "997"


# ---- web pages


def make_cors(key_file: Path, *origins: str) -> Guarded:
    write_key_file(key_file, {"key": USER, "requests_per_minute": 1})
    return Guarded(key_file, server={"cors_allow_origins": origins})


async def preflight(server: Server, origin: str = ORIGIN) -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
    }
    return await server.request("OPTIONS", CHAT, headers=headers)


async def test_web_pages_may_not_by_default(guarded):
    assert_unauthorized(await preflight(guarded))
    response = await guarded.request(
        "POST", CHAT, json=make_body(), headers={**bearer(USER), "origin": ORIGIN}
    )
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("allowed", [ORIGIN, "*"])
async def test_pages_of_an_allowed_origin_ask_without_a_key(key_file, allowed):
    response = await preflight(make_cors(key_file, allowed))
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == allowed
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "authorization" in response.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in response.headers
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_preflight_has_a_request_id(key_file):
    headers = (await preflight(make_cors(key_file, ORIGIN))).headers
    assert headers["x-request-id"].startswith("req-")
    assert headers["request-id"] == headers["x-request-id"]


async def test_pages_of_other_origins_are_refused(key_file):
    server = make_cors(key_file, ORIGIN)
    response = await preflight(server, "https://evil.example")
    assert response.status_code == 400
    assert "access-control-allow-origin" not in response.headers


async def test_pages_can_read_refusals_errors_and_what_is_left(key_file):
    server, origin = make_cors(key_file, ORIGIN), {"origin": ORIGIN}
    statuses = []
    for headers in ({}, bearer(USER), bearer(USER)):
        response = await server.request("POST", CHAT, json={}, headers={**origin, **headers})
        statuses.append(response.status_code)
        assert response.headers["access-control-allow-origin"] == ORIGIN
        exposed = response.headers["access-control-expose-headers"]
        assert "retry-after" in exposed and "x-ratelimit-remaining-requests" in exposed
    assert statuses == [401, 400, 429]


# ---- headers


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", "/health", {}),
        ("GET", "/v1/models", bearer(USER)),
        ("GET", "/nowhere", bearer(USER)),
        ("GET", CHAT, bearer(USER)),
        ("POST", CHAT, bearer(USER)),
        ("POST", CHAT, {}),
        ("OPTIONS", CHAT, {}),
    ],
)
async def test_every_answer_has_headers_against_misuse(guarded, method, target, headers):
    response = await guarded.request(method, target, headers=headers)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-store"
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "strict-transport-security" not in response.headers


async def test_a_stream_keeps_its_own_headers(guarded):
    response = await guarded.chat(stream=True)
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_route_has_the_last_word_on_its_policy(guarded):
    @guarded.app.get("/page")
    async def page() -> Any:
        return HTMLResponse("", headers={"content-security-policy": "default-src 'self'"})

    response = await guarded.request("GET", "/page", headers=bearer(USER))
    assert response.headers.get_list("content-security-policy") == ["default-src 'self'"]


async def test_https_only_is_said_over_https(make, tmp_path):
    files = {"ssl_certfile": tmp_path / "cert.pem", "ssl_keyfile": tmp_path / "key.pem"}
    response = await make(server=files).request("GET", "/health")
    assert response.headers["strict-transport-security"] == "max-age=31536000"
