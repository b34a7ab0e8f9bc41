"""One model in two processes: one encodes, one writes. The tokens of one that does both."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint
from tests.e2e.real_media import MEDIA, image, text, video
from tests.e2e.real_server import HOST_DIR, RealServer, make_request
from tests.fake_backend import image_part

pytestmark = pytest.mark.slow

_NUM_TOKENS = 24
_QUESTIONS: Sequence[Any] = (
    "What is the capital of France?",
    [image(), text("What is this?")],
    [text("Again, with other words before it."), image(), text("What is this?")],
    [image("coffee.webp"), image("cat_tiny.png"), image(), text("Which one is the largest?")],
    [video(max_pixels=40_000), image("coffee_wide.png", max_pixels=80_000), text("What moves?")],
)
_ENCODED_ITEMS = "qwen3vl_encoder_items_total"


class Processes:
    """An encoder process and a language process, with one directory between them."""

    def __init__(self, checkpoint: Path, logs: Path) -> None:
        self._checkpoint, self._logs = checkpoint, logs
        self._variables = {HOST_DIR: str(logs / "roles.host")}
        self.encoder = self._make("encoder")
        self._num_encoders = 1

    def _make(self, name: str, **options: Any) -> RealServer:
        log_path = self._logs / f"roles-{name}"
        options = {"role": name, **options}
        return RealServer(self._checkpoint, log_path, self._variables, **options)

    def make_language(self) -> RealServer:
        url = self.encoder.base_url
        return self._make("language", encoder_url=url, max_model_len=4096)

    def make_next_encoder(self) -> RealServer:
        """At the address of the one before."""
        port = self.encoder.base_url.rpartition(":")[2]
        self._num_encoders += 1
        name = f"encoder-{self._num_encoders}"
        self.encoder = self._make(name, role="encoder", port=port)
        return self.encoder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "moe"
    return build_checkpoint(path, CheckpointSpec(is_moe=True, num_experts=6))


@pytest.fixture(scope="module")
def expected(checkpoint: Path, logs: Path) -> list[str]:
    """The answers of a process that does both."""
    with RealServer(checkpoint, logs / "roles-both", max_model_len=4096) as server:
        return answers(server)


@pytest.fixture(scope="module")
def processes(
    expected: list[str], checkpoint: Path, logs: Path
) -> Iterator[tuple[Processes, RealServer]]:
    """Both, and the one that takes requests."""
    processes = Processes(checkpoint, logs)
    with processes.encoder, processes.make_language() as language:
        yield processes, language


@pytest.fixture
def encoder(processes: tuple[Processes, RealServer]) -> RealServer:
    return processes[0].encoder


@pytest.fixture
def language(processes: tuple[Processes, RealServer]) -> RealServer:
    return processes[1]


def answers(server: RealServer) -> list[str]:
    found = [server.ask(question, **options()) for question in _QUESTIONS]
    assert all(answer.usage.completion_tokens == _NUM_TOKENS for answer in found)
    return [answer.choices[0].message.model_dump_json() for answer in found]


def options() -> dict[str, Any]:
    return {"max_tokens": _NUM_TOKENS, "extra_body": {"ignore_eos": True}}


def sources(server: RealServer, content: Any) -> list[str]:
    """Where the items of a request came from; it must be answered."""
    headers = {"x-include-item-sources": "1"}
    answer = server.ask(content, extra_headers=headers, **options())
    found: list[str] = answer.usage.prompt_tokens_details.item_sources
    return found


def status(server: RealServer, content: Any, **more: Any) -> tuple[int, Mapping[str, str]]:
    """Status and headers of a request that may fail."""
    response = server.http.post("/v1/chat/completions", json=make_request(content, **more))
    return response.status_code, response.headers


def parameters(server: RealServer) -> set[str]:
    """The parts of the model that a process has said to hold."""
    found = re.search(r"parameters here: (.*)", server.log)
    assert found, server.log
    return {part.split()[0] for part in found[1].split(", ")}


def test_each_process_holds_its_half(encoder: RealServer, language: RealServer) -> None:
    assert parameters(encoder) == {"visual"}
    assert parameters(language) == {"language_model"}


def test_two_processes_give_the_tokens_of_one(
    encoder: RealServer, language: RealServer, expected: list[str]
) -> None:
    assert answers(language) == expected
    num_encoded = encoder.sample(_ENCODED_ITEMS)
    assert encoder.sample(_ENCODED_ITEMS, modality="image") == 4
    assert encoder.sample(_ENCODED_ITEMS, modality="video") > 1
    assert language.sample("qwen3vl_vision_cache_encoded_total") == 0
    # by now all pictures are known
    assert answers(language) == expected
    assert encoder.sample(_ENCODED_ITEMS) == num_encoded


def test_a_known_picture_among_other_words_is_not_encoded_again(
    encoder: RealServer, language: RealServer
) -> None:
    picture = image("rocket.tiff")
    first = sources(language, [picture, text("What is this?")])
    num_encoded = encoder.sample(_ENCODED_ITEMS)
    second = sources(language, [text("Other words."), picture, text("What is this?")])
    assert first == ["host"]
    assert second[0] in ("device", "host")
    assert encoder.sample(_ENCODED_ITEMS) == num_encoded


def test_a_picture_that_cannot_be_decoded_is_the_clients_fault(language: RealServer) -> None:
    broken = (MEDIA / "rocket.jpg").read_bytes()[:2000]
    part = image_part(f"data:image/jpeg;base64,{base64.b64encode(broken).decode()}")
    code, _ = status(language, [part, text("What is this?")])
    assert code == 422


def test_the_encoder_answers_no_chat(encoder: RealServer) -> None:
    assert status(encoder, "Hello")[0] == 404
    assert encoder.http.get("/ready").status_code == 200


def test_what_needs_no_encoder_goes_on_without_one(
    processes: tuple[Processes, RealServer], expected: list[str]
) -> None:
    (both, language), new = processes, [image("coffee_cmyk.jpg"), text("What is this?")]
    both.encoder.process.kill()
    both.encoder.process.wait(30)
    for streams in (False, True):
        code, headers = status(language, new, stream=streams)
        assert code == 503
        assert "retry-after" in headers
    assert answers(language) == expected  # text, and known pictures
    assert language.http.get("/ready").status_code == 200
    with both.make_next_encoder() as encoder:
        assert sources(language, new) == ["host"]
        assert encoder.sample(_ENCODED_ITEMS) == 1
