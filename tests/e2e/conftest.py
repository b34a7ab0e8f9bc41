"""One server with the real engine for each kind of checkpoint; all tests here share them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.prompt import PromptRenderer
from tests.e2e.real_server import RealServer


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="session")
def hybrid(hybrid_checkpoint: Path, logs: Path) -> Iterator[RealServer]:
    with RealServer(hybrid_checkpoint, logs / "hybrid", max_model_len=32768) as server:
        yield server


@pytest.fixture(scope="session")
def thinking(thinking_checkpoint: Path, logs: Path) -> Iterator[RealServer]:
    with RealServer(thinking_checkpoint, logs / "thinking", max_model_len=2048) as server:
        yield server


@pytest.fixture(scope="session")
def instruct(instruct_checkpoint: Path, logs: Path) -> Iterator[RealServer]:
    with RealServer(instruct_checkpoint, logs / "instruct", max_model_len=256) as server:
        yield server


@pytest.fixture(scope="session")
def demo(logs: Path) -> Iterator[RealServer]:
    """The embedded model, as it is served by default."""
    with RealServer("demo", logs / "demo", dtype="auto") as server:
        yield server


@pytest.fixture(scope="session")
def renderer(hybrid_checkpoint: Path) -> PromptRenderer:
    """The prompts that the hybrid checkpoint gets, token by token."""
    return PromptRenderer(str(hybrid_checkpoint))
