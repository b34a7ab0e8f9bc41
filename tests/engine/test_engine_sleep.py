"""Sleep as the engine's adapter does it. A CPU keeps its memory, but all else is as on a GPU: the
caches are emptied, nothing is scheduled until waking, weights are loaded again after level 2."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch._dynamo

from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint
from model_executor.parity import ParityCase
from model_executor.parity_cases import CaseBuilder
from server.engine import Engine, EngineRequest, GenerationChunk, SamplingOptions, SleepLevel
from server.settings import CacheSettings, EngineSettings, Settings

_ALL = ("weights", "kv_cache")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Undo what a start does to its process: later tests compile, and start other engines."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
    torch._dynamo.config.disable = False


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_checkpoint(tmp_path_factory.mktemp("checkpoints") / "dense", CheckpointSpec()))


@pytest.fixture(scope="module")
def case(checkpoint: str) -> ParityCase:
    """A picture, and text behind it that a prefix cache would hold."""
    return CaseBuilder(checkpoint).build("picture", "<image>" + "What is in it? " * 60)


@asynccontextmanager
async def running(model: str, host_dir: Path) -> AsyncIterator[Engine]:
    from server.vllm_start import start_engine

    settings = EngineSettings(
        model=model, dtype="float32", max_model_len=1024, kv_cache_bytes=128 * 1024**2
    )
    cache = CacheSettings(host_dir=str(host_dir))
    engine = await start_engine(model, Settings(engine=settings, cache=cache))
    try:
        yield engine
    finally:
        await engine.shutdown()


async def ask(engine: Engine, case: ParityCase) -> tuple[list[int], GenerationChunk]:
    """The tokens of the answer, and its last chunk."""
    sampling = SamplingOptions(max_tokens=16, temperature=0, ignore_eos=True)

    async def load_patches(keys: Collection[str]) -> dict[str, torch.Tensor]:
        patches = {placed.item.key: placed.item.patches for placed in case.items}
        return {key: patches[key] for key in keys}

    request = EngineRequest(uuid.uuid4().hex, case.token_ids, case.items, sampling, load_patches)
    chunks = [chunk async for chunk in engine.generate(request)]
    cached = max(chunk.num_cached_tokens for chunk in chunks)
    tokens = [token_id for chunk in chunks for token_id in chunk.token_ids]
    return tokens, replace(chunks[-1], num_cached_tokens=cached)


@pytest.mark.parametrize("level", [1, 2])
def test_after_waking_answers_and_weights_are_the_same_and_caches_empty(
    level: SleepLevel, checkpoint: str, case: ParityCase, tmp_path: Path
) -> None:
    async def run() -> None:
        async with running(checkpoint, tmp_path) as engine:
            weights = await engine.checksum_weights()
            expected, _ = await ask(engine, case)
            tokens, last = await ask(engine, case)
            assert tokens == expected and last.num_cached_tokens > 0
            await engine.sleep(level)
            assert await engine.checksum_weights() is None
            await engine.check_health()
            assert await engine.wake_up(_ALL)
            assert await engine.checksum_weights() == weights
            tokens, last = await ask(engine, case)
            assert tokens == expected
            assert last.num_cached_tokens == 0
            assert last.item_sources == ("host",)  # the device's copy is gone
            tokens, last = await ask(engine, case)
            assert tokens == expected and last.num_cached_tokens > 0

    asyncio.run(run())


def test_a_request_waits_until_all_parts_are_awake(
    checkpoint: str, case: ParityCase, tmp_path: Path
) -> None:
    async def run() -> None:
        async with running(checkpoint, tmp_path) as engine:
            expected, _ = await ask(engine, case)
            await engine.sleep(1)
            waiting = asyncio.create_task(ask(engine, case))
            assert not await engine.wake_up(["kv_cache"])
            assert await engine.checksum_weights() is None
            done, _ = await asyncio.wait([waiting], timeout=1)
            assert not done
            assert await engine.wake_up(["weights"])
            assert (await waiting)[0] == expected

    asyncio.run(run())
