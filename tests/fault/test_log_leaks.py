"""Nothing that a client sends is found in what the server writes, whatever goes wrong with it.

A real server logs everything it can, as JSON; each place of a request has a word of its own that
stands nowhere else. All that its processes write to stdout and stderr is searched.
"""

import base64
import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, PngImagePlugin

from tests.e2e.real_server import RealServer, make_request, open_stream, wait_until
from tests.fault import faulty_server

pytestmark = pytest.mark.slow

WORDS = {
    place: f"{place}Qx7vKz93"
    for place in (
        *("prompt", "system", "tool", "argument", "stop", "schema", "metadata", "user", "image"),
        *("host", "path", "query", "apikey", "bearer", "requestid", "model", "role", "field"),
        *("cut", "typed", "contenttype", "method", "pattern"),
    )
}
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
MAX_BODY_BYTES = 400_000
_LONG = {"max_tokens": 4000, "ignore_eos": True}


class FaultyServer(RealServer):
    def __init__(self, log_path: Path) -> None:
        options = {
            "kv_cache_bytes": 64 * 1024**2,
            "max_body_bytes": MAX_BODY_BYTES,
            "log_level": "debug",
            "log_format": "json",
        }
        super().__init__("demo", log_path, **options)
        script = Path(faulty_server.__file__)
        self._command = [sys.executable, str(script), *self._command[1:]]


@dataclass(frozen=True)
class Written:
    """All that the server has written, and what was asked of it by id: the status, None if cut."""

    log: str
    asked: dict[str, int | None]
    token_ids: list[int]

    @property
    def records(self) -> list[dict[str, Any]]:
        """The lines that are JSON."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]


def make_png(word: str) -> bytes:
    """With the word in its text, and in its pixels."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", word)
    info.add_itxt("Title", word)
    image = Image.frombytes("L", (64, 64), (word.encode() * 4096)[:4096])
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=info)
    return file.getvalue()


PNG = make_png(WORDS["image"])


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def chat(content: Any = WORDS["prompt"], **options: Any) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": WORDS["system"]},
        {"role": "user", "content": content},
    ]
    return {**make_request("", max_tokens=4), "messages": messages, **options}


def _tool() -> dict[str, Any]:
    parameters = {"type": "object", "properties": {WORDS["argument"]: {"type": "string"}}}
    return {"type": "function", "function": {"name": WORDS["tool"], "parameters": parameters}}


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": WORDS["schema"], "schema": schema}}


_MEDIA_URL = f"https://{WORDS['host']}.invalid/{WORDS['path']}?key={WORDS['query']}"
_WORD_SCHEMA = {"type": "object", "properties": {WORDS["schema"]: {"type": "string"}}}
_PARTS = [{"type": "text", "text": WORDS["prompt"]}, image(data_url(PNG))]

# path, body, expected status
BODIES: list[tuple[str, Any, int]] = [
    (CHAT, chat(), 200),
    (CHAT, chat(_PARTS, stream=True), 200),
    (CHAT, chat(stop=[WORDS["stop"]], user=WORDS["user"], metadata={"m": WORDS["metadata"]}), 200),
    (CHAT, chat(tools=[_tool()], tool_choice="auto"), 200),
    (CHAT, chat(response_format=_format(_WORD_SCHEMA), max_tokens=30), 200),
    (CHAT, chat(**{WORDS["field"]: WORDS["field"]}), 200),
    ("/v1/completions", {"model": "tiny", "prompt": WORDS["prompt"], "max_tokens": 4}, 200),
    (RESPONSES, {"model": "tiny", "input": WORDS["prompt"], "max_output_tokens": 16}, 200),
    (
        MESSAGES,
        {"model": "tiny", "max_tokens": 4, "messages": chat()["messages"][1:], "system": "s"},
        200,
    ),
    ("/tokenize", {"prompt": WORDS["prompt"]}, 200),
    (CHAT, chat(max_tokens=WORDS["typed"]), 400),
    (CHAT, {**chat(), "messages": [{"role": WORDS["role"], "content": "x"}]}, 400),
    (RESPONSES, {"model": "tiny", "input": {"x": WORDS["typed"]}}, 400),
    (MESSAGES, {"model": "tiny", "max_tokens": WORDS["typed"], "messages": []}, 400),
    (CHAT, chat(model=WORDS["model"]), 404),
    (CHAT, chat([image(_MEDIA_URL.replace("https", "http"))]), 400),
    (CHAT, chat([image(f"https://10.1.2.3/{WORDS['path']}?{WORDS['query']}")]), 400),
    (CHAT, chat([image(data_url(PNG[:-30]))]), 422),
    (CHAT, chat([image(data_url(WORDS["cut"].encode() * 10))]), 415),
    (CHAT, chat([image(data_url(PNG).replace("png;base64,", "png;base64,*"))]), 422),
    (CHAT, chat(response_format=_format({"type": WORDS["schema"]})), 400),
    (
        CHAT,
        chat(response_format=_format({"type": "string", "pattern": WORDS["pattern"] + "["})),
        400,
    ),
    (CHAT, chat(tools=[{**_tool(), "type": WORDS["tool"]}]), 400),
    (CHAT, chat(WORDS["prompt"] * 40_000), 413),
    (CHAT, chat(user=faulty_server.FAIL_HERE), 500),
]


def ask_all(http: httpx.Client) -> dict[str, int | None]:
    """Every kind of request. Returns: the status of each by its id."""
    asked: dict[str, int | None] = {}
    wrong: list[tuple[int, int, str]] = []

    def note(answer: httpx.Response, status: int) -> None:
        if answer.status_code != status:
            wrong.append((status, answer.status_code, answer.text[:300]))
        request_id = answer.headers["x-request-id"]
        assert request_id not in asked
        asked[request_id] = status

    headers = {"authorization": f"Bearer {WORDS['bearer']}", "x-api-key": WORDS["apikey"]}
    for index, (path, body, status) in enumerate(BODIES):
        own_id = {"x-request-id": f"request-{index}"}
        note(http.post(path, json=body, headers={**headers, **own_id}), status)
    answer = http.post(CHAT, json=chat([image(_MEDIA_URL)]), headers=headers)
    note(answer, answer.status_code)  # its host has no address
    word = WORDS["requestid"]
    for hostile in (
        f"{word} b",
        f'{word}"}}',
        f"{word}\x1b[1m",
        f"\xe9{word}",
        word * 100,
        f"../{word}",
    ):
        raw = hostile.encode("latin-1")
        note(http.post(CHAT, json=chat(), headers={"x-request-id": raw}), 200)
    as_json = {"content-type": "application/json"}
    note(http.post(CHAT, content=f'{{"{WORDS["field"]}'.encode(), headers=as_json), 400)
    kind = {"content-type": f"text/{WORDS['contenttype']}"}
    note(http.post(CHAT, content=WORDS["prompt"].encode(), headers=kind), 415)
    note(http.get(f"/{WORDS['path']}?key={WORDS['query']}"), 404)
    note(http.get(f"/health?key={WORDS['query']}"), 200)
    note(http.get(f"/v1/responses/{WORDS['path']}"), 404)
    note(http.request(WORDS["method"], CHAT, headers=headers), 405)
    assert wrong == []
    return asked


def cut_stream(server: RealServer, http: httpx.Client) -> str:
    """A request whose client goes away in the middle of its answer. Returns its id."""
    body, headers = chat(stream=True, **_LONG), {"x-request-id": "cut-stream"}
    with http.stream("POST", CHAT, json=body, headers=headers) as answer:
        next(answer.iter_lines())
    wait_until(lambda: '"cut-stream", "method"' in server.log)
    return "cut-stream"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Written]:
    """A server that gets all requests, and whose engine is killed at last."""
    with FaultyServer(tmp_path_factory.mktemp("leaks") / "log") as server:
        tokens = server.http.post("/tokenize", json={"prompt": WORDS["prompt"]}).json()["tokens"]
        with httpx.Client(base_url=server.base_url, timeout=120) as http:
            asked = ask_all(http)
            asked[cut_stream(server, http)] = None
        with open_stream(server, WORDS["prompt"], **_LONG) as lines:
            next(lines)
            server.engine_process.kill()
            list(lines)
        assert server.wait() == 1
        yield Written(server.log, asked, tokens)


@pytest.fixture(scope="module")
def died(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Written]:
    """A server whose engine fails while it computes."""
    with FaultyServer(tmp_path_factory.mktemp("leaks") / "log") as server:
        tokens = server.http.post("/tokenize", json={"prompt": WORDS["prompt"]}).json()["tokens"]
        schema = _format(_WORD_SCHEMA)
        body = chat(_PARTS, seed=faulty_server.FAIL_IN_ENGINE, response_format=schema)
        answer = server.http.post(CHAT, json=body)
        assert answer.status_code == 503
        server.wait()
        yield Written(server.log, {answer.headers["x-request-id"]: 503}, tokens)


@pytest.fixture(params=["written", "died"])
def any_written(request: pytest.FixtureRequest) -> Written:
    written: Written = request.getfixturevalue(request.param)
    return written


def test_no_word_of_a_request_is_written(any_written: Written):
    log = any_written.log.lower()
    assert [place for place, word in WORDS.items() if word.lower() in log] == []


def test_no_media_are_written_in_any_form(any_written: Written):
    encoded = base64.b64encode(PNG).decode()
    parts = {encoded[start : start + 24] for start in range(0, len(encoded) - 24, 24)}
    assert [part for part in parts if part in any_written.log] == []
    for word in (WORDS["image"], WORDS["prompt"], WORDS["bearer"], WORDS["apikey"]):
        raw = word.encode()
        forms = [
            raw.hex(),
            base64.b64encode(raw).decode().rstrip("=")[:-1],
            ",".join(map(str, raw)),
        ]
        assert [form for form in forms if form in any_written.log.replace(" ", "")] == []
    assert "data:" not in any_written.log and "tensor(" not in any_written.log


def test_no_tokens_of_a_prompt_are_written(any_written: Written):
    ids = any_written.token_ids
    assert len(ids) > 4
    for start in range(len(ids) - 3):
        pattern = r"\D{1,3}".join(map(str, ids[start : start + 4]))
        assert re.search(rf"\b{pattern}\b", any_written.log) is None


def test_every_request_has_one_line_with_its_id_and_status(any_written: Written):
    lines = [r for r in any_written.records if r["message"] == "request"]
    for request_id, status in any_written.asked.items():
        own = [line for line in lines if line.get("request_id") == request_id]
        assert len(own) == 1, request_id
        if status is None:
            assert own[0]["outcome"] == "aborted"
        else:
            assert own[0]["status"] == status
            assert own[0]["outcome"] == _outcome_of(status)


def _outcome_of(status: int) -> str:
    return "done" if status < 400 else "rejected" if status < 500 else "error"


def test_a_line_tells_the_size_of_a_request_and_of_its_answer(written: Written):
    (line,) = [r for r in written.records if r.get("request_id") == "request-1" and "method" in r]
    assert (line["method"], line["route"], line["num_media"]) == ("POST", CHAT, 1)
    assert line["prompt_tokens"] > 10 and 1 <= line["completion_tokens"] <= 4
    assert line["duration_ms"] > 0


def test_every_line_is_an_object_from_the_first_request_on(any_written: Written):
    """Before it, libraries that are not written in Python have printed what they think."""
    lines = any_written.log[any_written.log.index('"message": "request"') :].splitlines()[1:]
    others = [line for line in lines if not line.startswith("{")]
    assert [line for line in others if not re.fullmatch(r"Process [\w-]+:", line)] == []
    for record in any_written.records:
        assert {"time", "level", "logger", "message"} <= record.keys()


def test_a_fault_of_the_server_is_told_by_its_place(written: Written):
    (line,) = [r for r in written.records if r["message"] == "unexpected error"]
    assert line["error"] == "ValueError"
    assert any("failing_prepare" in call for call in line["trace"])
    assert line["request_id"] in written.asked


def test_a_fault_of_the_engine_is_told_by_its_place(died: Written):
    (line,) = [r for r in died.records if r["message"] == "EngineCore encountered a fatal error."]
    assert line["error"] == "ValueError"
    assert any("failing_execute" in call for call in line["trace"])
    assert "reason" not in line


def test_lines_of_the_engine_have_the_same_form(written: Written):
    processes = {record.get("process") for record in written.records}
    assert any(process and process.startswith("EngineCore") for process in processes)
