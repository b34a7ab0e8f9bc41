"""vLLM's own server with our plugin installed gives the answers of ours."""

import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.e2e.real_media import count_image_tokens, image, text, video
from tests.e2e.real_server import MODEL_NAME, RealServer, ServerProcess

CONTENTS = {
    "text": "What is a circle?",
    "image": [image(), text("What is it?")],
    "video": [video(), text("What happens?")],
    "both": [video(), text("See"), image("cat_exif6.jpg"), text("then"), image("cat_rgba.png")],
}


class StockServer(ServerProcess):
    """`python -m vllm.entrypoints.openai.api_server`."""

    address = re.compile(r"server on (http://127\S+)")
    ready_path = "/health"

    def __init__(self, model: Path, log_path: Path) -> None:
        options = {
            "--model": str(model),
            "--served-model-name": MODEL_NAME,
            "--dtype": "float32",
            "--max-model-len": "2048",
            "--host": "127.0.0.1",
            "--port": str(_free_port()),
        }
        module = "vllm.entrypoints.openai.api_server"
        flags = [part for option in options.items() for part in option]
        switches = ["--enforce-eager", "--trust-request-mm-kwargs"]
        command = [sys.executable, "-m", module, *switches, *flags]
        super().__init__(command, log_path, VLLM_CPU_KVCACHE_SPACE="1")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def stock(hybrid_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    with StockServer(hybrid_checkpoint, tmp_path_factory.mktemp("logs") / "stock") as server:
        yield server


@pytest.fixture(scope="module")
def ours(hybrid_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    log_path = tmp_path_factory.mktemp("logs") / "ours"
    with RealServer(hybrid_checkpoint, log_path, max_model_len=2048) as server:
        yield server


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_stock_server_gives_the_answer_of_ours(stock: StockServer, ours: RealServer, content):
    theirs, expected = stock.ask(content), ours.ask(content)
    assert theirs.choices[0].message.content == expected.choices[0].message.content
    assert theirs.usage.prompt_tokens == expected.usage.prompt_tokens


def test_stock_server_answers_media_out_of_bounds_with_400(stock: StockServer):
    content = [image(), text("What is it?")]
    with pytest.raises(openai.BadRequestError, match="max_pixels"):
        stock.ask(content, extra_body={"mm_processor_kwargs": {"max_pixels": 10**9}})


def test_stock_server_follows_pixel_bounds(stock: StockServer):
    bounds = {"min_pixels": 4096, "max_pixels": 40_000}
    content = [image(), text("What is it?")]
    default = stock.ask(content).usage.prompt_tokens
    bounded = stock.ask(content, extra_body={"mm_processor_kwargs": bounds}).usage.prompt_tokens
    expected = count_image_tokens(640, 427) - count_image_tokens(640, 427, **bounds)
    assert default - bounded == expected > 0
