"""vLLM's GPU runner (V2, asynchronous scheduling) against transformers, which CPU tests cannot see.

Float32 on both sides, so that greedy tokens can be compared; through the server's engine adapter.
"""

import asyncio
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint
from model_executor.parity import ParityCase, Reference
from model_executor.parity_cases import CaseBuilder
from multimodal.preprocessor_config import load_preprocessor_config
from server.engine import EngineRequest, SamplingOptions
from server.settings import CacheSettings, EngineSettings, Settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NUM_TOKENS = 64


async def generate(  # type: ignore[no-untyped-def]
    model: str,
    batches: list[list[ParityCase]],
    max_num_batched_tokens: int,
    cache: CacheSettings,
    **options: Any,
):
    """Token ids and cached prompt tokens of each case, the batches one after another."""
    from server.vllm_start import start_engine

    settings = EngineSettings(
        model=model,
        dtype="float32",
        max_model_len=1024,
        max_num_batched_tokens=max_num_batched_tokens,
        gpu_memory_utilization=0.3,
        **options,
    )
    engine = await start_engine(model, Settings(engine=settings, cache=cache))

    async def run(case: ParityCase) -> tuple[list[int], int]:
        sampling = SamplingOptions(max_tokens=NUM_TOKENS, temperature=0, ignore_eos=True)

        async def load_patches(keys: Collection[str]) -> dict[str, torch.Tensor]:
            patches = {placed.item.key: placed.item.patches for placed in case.items}
            return {key: patches[key] for key in keys}

        request = EngineRequest(
            uuid.uuid4().hex, case.token_ids, case.items, sampling, load_patches
        )
        token_ids: list[int] = []
        num_cached = 0
        async for chunk in engine.generate(request):
            token_ids += chunk.token_ids
            num_cached = max(num_cached, chunk.num_cached_tokens)
        return token_ids, num_cached

    try:
        return [await asyncio.gather(*map(run, batch)) for batch in batches]
    finally:
        await engine.shutdown()


@pytest.mark.parametrize("is_moe", [False, True])
@pytest.mark.parametrize("max_num_batched_tokens", [1024, 32])
@pytest.mark.parametrize("host_bytes", [0, 1 << 30])
def test_tokens_equal_transformers_alone_in_a_batch_and_from_the_caches(
    is_moe: bool, max_num_batched_tokens: int, host_bytes: int, tmp_path: Path
) -> None:
    """The device keeps next to nothing, so items come from the host tier or are asked for again."""
    cache = CacheSettings(host_dir=str(tmp_path / "host"), host_bytes=host_bytes, device_bytes=1)
    model = str(build_checkpoint(tmp_path / "model", CheckpointSpec(is_moe=is_moe)))
    cases = CaseBuilder(model).standard_cases()
    reference = Reference(model, load_preprocessor_config(model))
    expected = [list(reference.run(case, NUM_TOKENS).generated) for case in cases]
    batches = [[case] for case in cases] + [cases, cases]
    results = asyncio.run(generate(model, batches, max_num_batched_tokens, cache))
    alone = [tokens for ((tokens, _),) in results[: len(cases)]]
    assert alone == expected
    for batch in results[len(cases) :]:
        assert [tokens for tokens, _ in batch] == expected
    assert all(num_cached > 0 for _, num_cached in results[-1][1:])


@pytest.mark.parametrize("cudagraph_mm_encoder", [False, True])
def test_tokens_equal_transformers_with_the_vision_tower_in_graphs(
    cudagraph_mm_encoder: bool, tmp_path: Path
) -> None:
    """Nothing is kept, so that every batch is encoded; float32 has no FlashAttention."""
    cache = CacheSettings(host_bytes=0, device_bytes=1)
    model = str(build_checkpoint(tmp_path / "model", CheckpointSpec()))
    cases = CaseBuilder(model).standard_cases()
    reference = Reference(model, load_preprocessor_config(model))
    expected = [list(reference.run(case, NUM_TOKENS).generated) for case in cases]
    options = {
        "mm_encoder_attn_backend": "TRITON_ATTN",
        "cudagraph_mm_encoder": cudagraph_mm_encoder,
    }
    results = asyncio.run(generate(model, [[cases[0]], cases, cases], 1024, cache, **options))
    assert [tokens for tokens, _ in results[0]] == expected[:1]
    for batch in results[1:]:
        assert [tokens for tokens, _ in batch] == expected
