"""Sleep, checksums and EAGLE3 on a GPU: vLLM's V2 runner, whose memory really goes and comes."""

import asyncio
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint
from model_executor.parity import ParityCase
from model_executor.parity_cases import CaseBuilder
from server.engine import Engine, EngineRequest, SamplingOptions
from server.settings import CacheSettings, EngineSettings, Settings
from tests.draft_checkpoint import build_echo_drafter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NUM_TOKENS = 48


async def start(model: Path, host_dir: Path, **options: Any) -> Engine:
    from server.vllm_start import start_engine

    settings = EngineSettings(
        model=str(model),
        dtype="float32",
        max_model_len=1024,
        gpu_memory_utilization=0.3,
        **options,
    )
    cache = CacheSettings(host_dir=str(host_dir))
    return await start_engine(str(model), Settings(engine=settings, cache=cache))


async def ask(engine: Engine, case: ParityCase) -> list[int]:
    """The tokens of the greedy answer."""

    async def load_patches(keys: Collection[str]) -> dict[str, torch.Tensor]:
        patches = {placed.item.key: placed.item.patches for placed in case.items}
        return {key: patches[key] for key in keys}

    sampling = SamplingOptions(max_tokens=NUM_TOKENS, temperature=0, ignore_eos=True)
    request = EngineRequest(uuid.uuid4().hex, case.token_ids, case.items, sampling, load_patches)
    return [token_id async for chunk in engine.generate(request) for token_id in chunk.token_ids]


async def ask_all(engine: Engine, cases: list[ParityCase]) -> list[list[int]]:
    return [await ask(engine, case) for case in cases]


async def sleep_and_wake(engine: Engine, cases: list[ParityCase]) -> None:
    """At both levels, and in two steps; with what `/health` shows of the weights."""
    weights, expected = await engine.checksum_weights(), await ask_all(engine, cases)
    assert weights is not None
    for level, steps in ((1, [["weights", "kv_cache"]]), (2, [["weights"], ["kv_cache"]])):
        free = torch.cuda.mem_get_info()[0]
        await engine.sleep(level)
        assert torch.cuda.mem_get_info()[0] - free > sum(worker.num_bytes for worker in weights)
        assert await engine.checksum_weights() is None
        woken = [await engine.wake_up(parts) for parts in steps]
        assert woken == [*[False] * (len(steps) - 1), True]
        assert await engine.checksum_weights() == weights
        assert await ask_all(engine, cases) == expected


@pytest.mark.parametrize("enforce_eager", [True, False])
@pytest.mark.parametrize("is_moe", [False, True])
def test_after_a_sleep_weights_and_answers_are_the_same(
    is_moe: bool, enforce_eager: bool, tmp_path: Path
) -> None:
    model = build_checkpoint(tmp_path / "model", CheckpointSpec(is_moe=is_moe))
    cases = CaseBuilder(str(model)).standard_cases()

    async def run() -> None:
        options = {"enable_sleep_mode": True, "enforce_eager": enforce_eager}
        engine = await start(model, tmp_path / "host", **options)
        try:
            await sleep_and_wake(engine, cases)
        finally:
            await engine.shutdown()

    asyncio.run(run())


@pytest.mark.parametrize("max_num_batched_tokens", [1024, 48])
def test_eagle3_changes_no_greedy_answer(max_num_batched_tokens: int, tmp_path: Path) -> None:
    """Also after a sleep: the drafter's weights are not loaded again but kept."""
    spec = CheckpointSpec(num_layers=6, is_tied=True, initializer_range=0.1)
    model = build_checkpoint(tmp_path / "model", spec)
    drafter = build_echo_drafter(tmp_path / "drafter", model)
    cases = CaseBuilder(str(model)).standard_cases()
    speculative = {"method": "eagle3", "model": str(drafter), "num_speculative_tokens": 3}

    async def run() -> None:
        options: dict[str, Any] = {"max_num_batched_tokens": max_num_batched_tokens}
        plain = await start(model, tmp_path / "host", **options)
        try:
            expected = await ask_all(plain, cases)
        finally:
            await plain.shutdown()
        options |= {"speculative_config": speculative, "enable_sleep_mode": True}
        drafting = await start(model, tmp_path / "host", **options)
        try:
            assert await ask_all(drafting, cases) == expected
            await sleep_and_wake(drafting, cases)
        finally:
            await drafting.shutdown()

    asyncio.run(run())
