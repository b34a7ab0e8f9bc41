"""The length of the context: what is chosen at start, what is refused, what it is used for."""

import json
import subprocess
from pathlib import Path

import openai
import pytest

from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint
from tests.e2e.real_media import image, text
from tests.e2e.real_server import RealServer, serve_command, server_environment

_KV_BYTES = 16 * 1024**2  # 8,192 tokens of float32, of which a block of 128 is the engine's
_FITS = 8064
_ORIGINAL = 512


@pytest.fixture(scope="module")
def short_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "short"
    return build_checkpoint(path, CheckpointSpec(max_position_embeddings=_ORIGINAL))


def context_of(server: RealServer) -> int:
    length: int = server.http.get("/v1/models").json()["data"][0]["max_model_len"]
    return length


def test_the_default_is_what_the_kv_cache_holds(hybrid_checkpoint: Path, logs: Path) -> None:
    with RealServer(hybrid_checkpoint, logs / "fitted", kv_cache_bytes=_KV_BYTES) as server:
        assert context_of(server) == _FITS
        assert f"context: {_FITS} tokens, cut from 262144" in server.log


def test_a_length_that_does_not_fit_is_refused(hybrid_checkpoint: Path) -> None:
    command = serve_command(
        str(hybrid_checkpoint),
        port=0,
        dtype="float32",
        kv_cache_bytes=_KV_BYTES,
        max_model_len=10_000,
    )
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=server_environment()
    )
    assert done.returncode == 1
    expected = f"engine.max_model_len: the KV cache holds {_FITS} tokens, not 10000"
    assert expected in (done.stdout + done.stderr).splitlines()[-1]


def test_rope_scaling_makes_room_for_longer_prompts(short_checkpoint: Path, logs: Path) -> None:
    path = logs / "scaled"
    with RealServer(short_checkpoint, path, rope_scaling="yarn-1m", dtype="float32") as server:
        assert context_of(server) == 1953  # 512 * 1,000,000 / 262,144
        words = "page " * 150
        answer = server.ask([text(words), image(), text(f"{words} What is this?")])
        assert answer.usage.prompt_tokens > 2 * _ORIGINAL
        with pytest.raises(openai.BadRequestError) as refused:
            server.ask(words * 10)
        assert "1953" in json.dumps(refused.value.body)
