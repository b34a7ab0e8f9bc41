"""API keys over TLS, with the real engine; what refuses to start."""

import os
import signal
import ssl
import subprocess
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from server.access.key_file import read_keys
from tests.api_keys import bearer
from tests.certificates import write_certificate
from tests.e2e.real_media import image, text
from tests.e2e.real_server import (
    COMMAND,
    HOST_DIR,
    RealServer,
    make_request,
    serve_command,
    server_environment,
    wait_until,
)
from tests.fake_backend import assert_error

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"


class GuardedServer(RealServer):
    """It has a certificate that only its clients here trust."""

    def __init__(self, certfile: Path, *args: Any, **options: Any) -> None:
        super().__init__(*args, ssl_certfile=certfile, **options)
        self._certfile = certfile

    @cached_property
    def base_url(self) -> str:
        return super().base_url.replace("0.0.0.0", "127.0.0.1")

    @cached_property
    def http(self) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self._certfile))
        return httpx.Client(base_url=self.base_url, timeout=120, verify=context)

    def ask_as(self, api_key: str, content: str = "Hello.", **options: Any) -> httpx.Response:
        body = make_request(content, max_tokens=4, **options)
        return self.http.post(CHAT, json=body, headers=bearer(api_key))


def run_keys(key_file: Path, *argv: str) -> str:
    command = [COMMAND, "keys", *argv, "--file", str(key_file)]
    environment = server_environment()
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    return ended.stdout.strip()


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access") / "keys.json"


@pytest.fixture(scope="module")
def admin(key_file: Path) -> str:
    return run_keys(key_file, "add", "operator", "--admin")


@pytest.fixture(scope="module")
def user(key_file: Path, admin: str) -> str:
    return run_keys(key_file, "add", "user", "--tokens-per-minute", "20000")


@pytest.fixture(scope="module")
def server(
    key_file: Path, user: str, instruct_checkpoint: Path, logs: Path
) -> Iterator[GuardedServer]:
    certfile, keyfile = write_certificate(logs / "tls")
    with GuardedServer(
        certfile,
        instruct_checkpoint,
        logs / "access",
        host="0.0.0.0",
        ssl_keyfile=keyfile,
        api_keys_file=key_file,
        max_model_len=1024,
    ) as server:
        yield server


def test_a_valid_key_is_answered_over_tls(server: GuardedServer, user: str) -> None:
    assert server.base_url.startswith("https://")
    client = openai.OpenAI(
        base_url=f"{server.base_url}/v1", api_key=user, http_client=server.http, max_retries=0
    )
    raw = client.chat.completions.with_raw_response.create(**make_request("Hello."))
    assert raw.parse().usage.completion_tokens > 0
    assert raw.headers["x-ratelimit-limit-tokens"] == "20000"
    assert raw.headers["strict-transport-security"]
    wrong = client.with_options(api_key="sk-qwen3vl-wrong")
    with pytest.raises(openai.AuthenticationError):
        wrong.chat.completions.create(**make_request("Hello."))


def test_a_stream_tells_what_is_left(server: GuardedServer, user: str) -> None:
    long = "Hello. " * 100  # so that a slow machine has not given all of it back by then
    response = server.ask_as(user, long, stream=True)
    assert response.text.endswith("data: [DONE]\n\n")
    assert int(response.headers["x-ratelimit-remaining-tokens"]) < 20000


def test_keys_do_not_share_the_beginnings_of_prompts(
    server: GuardedServer, user: str, admin: str
) -> None:
    content = " ".join(str(number) for number in range(150))
    usages = [server.ask_as(key, content).json()["usage"] for key in (user, admin, user)]
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages]
    assert cached[:2] == [0, 0] and cached[2] > 0


def test_plain_http_is_not_spoken(server: GuardedServer) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(server.base_url.replace("https", "http") + "/health", timeout=30)


def test_operators_routes_are_for_the_admin(server: GuardedServer, user: str, admin: str) -> None:
    for path in ("/metrics", "/health?details=1"):
        assert server.http.get(path).status_code == 401
        assert_error(server.http.get(path, headers=bearer(user)), 403, "admin_key_required")
        assert server.http.get(path, headers=bearer(admin)).status_code == 200


def test_a_large_body_without_a_key_is_refused_and_the_server_goes_on(
    server: GuardedServer, user: str
) -> None:
    body = make_request("word " * 4_000_000)
    assert server.http.post(CHAT, json=body).status_code == 401
    assert server.ask_as(user).status_code == 200


def test_keys_come_and_go_while_it_runs(server: GuardedServer, key_file: Path) -> None:
    api_key = run_keys(key_file, "add", "guest", "--requests-per-minute", "1")
    wait_until(lambda: server.ask_as(api_key).status_code == 200)
    limited = server.ask_as(api_key)
    assert limited.status_code == 429 and int(limited.headers["retry-after"]) >= 1
    run_keys(key_file, "rm", "guest")
    os.kill(server.process.pid, signal.SIGHUP)
    wait_until(lambda: server.ask_as(api_key).status_code == 401)


def test_a_broken_file_changes_nothing(server: GuardedServer, key_file: Path, user: str) -> None:
    content = key_file.read_bytes()
    key_file.write_text("sk-qwen3vl-oops")
    try:
        os.kill(server.process.pid, signal.SIGHUP)
        wait_until(lambda: "the API keys stay as they are" in server.log)
        assert server.ask_as(user).status_code == 200
    finally:
        key_file.write_bytes(content)
    assert "sk-qwen3vl-oops" not in server.log


def test_no_key_and_no_hash_is_in_the_log(
    server: GuardedServer, key_file: Path, user: str, admin: str
) -> None:
    server.ask_as("sk-qwen3vl-wrong")
    hashes = [entry.hash.removeprefix("sha256:") for entry in read_keys(key_file)[0].entries]
    assert not [text for text in (user, admin, "sk-qwen3vl-", *hashes) if text in server.log]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_wide_address_needs_keys_or_insecure(host: str) -> None:
    ended = subprocess.run(
        serve_command("demo", host=host, port=0),
        env=server_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"qwen3vl-serve: server.host: {host}") and "--insecure" in line


def test_insecure_is_a_bare_flag(instruct_checkpoint: Path, logs: Path) -> None:
    insecure = RealServer(instruct_checkpoint, logs / "insecure", host="0.0.0.0", max_model_len=256)
    insecure._command[2:2] = ["--insecure"]
    with insecure as server:
        assert server.http.post(CHAT, json=make_request("Hello.")).status_code == 200


def test_all_api_processes_read_the_file_again(
    key_file: Path, instruct_checkpoint: Path, logs: Path
) -> None:
    options: dict[str, Any] = {"api_keys_file": key_file, "api_workers": 2, "max_model_len": 256}
    with RealServer(instruct_checkpoint, logs / "access-workers", **options) as server:
        api_key = run_keys(key_file, "add", "late")
        os.kill(server.process.pid, signal.SIGHUP)
        wait_until(lambda: server.log.count("API keys are read again") >= 2)

        def list_models(**headers: str) -> int:
            """On a connection of its own, which any of the processes may take."""
            return httpx.get(
                f"{server.base_url}/v1/models", headers=headers, timeout=60
            ).status_code

        assert {list_models(**bearer(api_key)) for _ in range(16)} == {200}
        assert {list_models() for _ in range(4)} == {401}
    run_keys(key_file, "rm", "late")


def test_a_language_process_shows_its_key_to_the_encoder(
    instruct_checkpoint: Path, logs: Path
) -> None:
    key_file, encoder_key = logs / "encoder-keys.json", logs / "encoder-key"
    encoder_key.write_text(run_keys(key_file, "add", "language") + "\n")
    shared = {HOST_DIR: str(logs / "access-roles.host")}
    options: dict[str, Any] = {"role": "encoder", "api_keys_file": key_file}
    with RealServer(instruct_checkpoint, logs / "access-encoder", shared, **options) as encoder:
        assert httpx.post(f"{encoder.base_url}/v1/vision/encode", timeout=60).status_code == 401
        options = {
            "role": "language",
            "encoder_url": encoder.base_url,
            "encoder_key_file": encoder_key,
            "max_model_len": 1024,
        }
        log_path = logs / "access-language"
        with RealServer(instruct_checkpoint, log_path, shared, **options) as language:
            language.ask([image("cat_tiny.png"), text("What is this?")])
            assert encoder.sample("qwen3vl_encoder_items_total") == 1
            assert encoder_key.read_text().strip() not in language.log + encoder.log
