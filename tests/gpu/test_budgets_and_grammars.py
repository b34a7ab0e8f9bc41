"""Thinking budgets and grammars behind the thinking, on vLLM's GPU runner (V2, asynchronous)."""

import asyncio
import uuid
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint
from server.engine import Engine, EngineRequest, SamplingOptions
from server.grammar.output_grammar import regex
from server.prompt import PromptRenderer
from server.settings import CacheSettings, EngineSettings, Settings
from server.thinking_budget import ThinkingBudget, generate_within

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


async def load_nothing(keys: Collection[str]) -> Mapping[str, torch.Tensor]:
    return {}


async def read(engine: Engine, request: EngineRequest, budget: ThinkingBudget | None) -> list[int]:
    """The tokens of an answer."""
    request = replace(request, request_id=uuid.uuid4().hex)
    chunks = generate_within(budget, engine, request) if budget else engine.generate(request)
    return [token_id async for chunk in chunks for token_id in chunk.token_ids]


async def check(model: str) -> None:
    from server.vllm_start import start_engine

    settings = EngineSettings(
        model=model, dtype="float32", max_model_len=1024, gpu_memory_utilization=0.3
    )
    cache = CacheSettings(host_bytes=0)
    engine = await start_engine(model, Settings(engine=settings, cache=cache))
    try:
        renderer = PromptRenderer(model)
        assert renderer.close_id is not None
        prompt = renderer.render([{"role": "user", "content": "hi"}], thinking=True)
        end = renderer.end_thinking("Enough.")
        budgets = [
            ThinkingBudget(size, renderer.close_id, end, renderer.decode) for size in (0, 1, 7, 40)
        ]
        ends = (renderer.close_id, *renderer.encode_prompt("<|im_end|><|endoftext|>"))
        sampling = SamplingOptions(
            64, temperature=0, ignore_eos=True, logit_bias=dict.fromkeys(ends, -100.0)
        )
        request = EngineRequest("", prompt, (), sampling, load_nothing, starts_in_reasoning=True)
        await check_budgets(engine, request, budgets)
        await check_grammar(engine, request, budgets[1:], renderer)
    finally:
        await engine.shutdown()


async def check_budgets(
    engine: Engine, request: EngineRequest, budgets: list[ThinkingBudget]
) -> None:
    """All at once: each is cut to the token, and goes on as if its thinking had been given."""
    free = await read(engine, request, None)
    answers = await asyncio.gather(*(read(engine, request, budget) for budget in budgets))
    for budget, answer in zip(budgets, answers, strict=True):
        opening = [*free[: budget.max_tokens], *budget.end.token_ids]
        assert answer[: len(opening)] == opening
        prompt = (*request.prompt_token_ids, *opening)
        max_tokens = request.sampling.max_tokens - len(opening)
        given = replace(
            request,
            prompt_token_ids=prompt,
            sampling=replace(request.sampling, max_tokens=max_tokens),
            starts_in_reasoning=False,
        )
        assert answer[len(opening) :] == await read(engine, given, None)


async def check_grammar(
    engine: Engine,
    request: EngineRequest,
    budgets: list[ThinkingBudget],
    renderer: PromptRenderer,
) -> None:
    """Thinking is free, whether it ends by itself or by a budget; the answer obeys."""
    tag = regex("[0-9]{3}", "x").structural_tag
    obeying = replace(
        request, sampling=replace(request.sampling, structural_tag=tag, ignore_eos=False)
    )
    for budget in budgets:
        answer = await read(engine, obeying, budget)
        text = renderer.decode(answer[budget.max_tokens + len(budget.end.token_ids) :])
        assert len(text) == 3 and text.isdigit()
    eager = replace(
        obeying.sampling, logit_bias={budgets[0].close_id: 5.0}, temperature=1.0, seed=1
    )
    answer = await read(engine, replace(obeying, sampling=replace(eager, max_tokens=500)), None)
    text = renderer.decode(answer[answer.index(budgets[0].close_id) + 1 :])
    assert len(text) == 3 and text.isdigit()


def test_budgets_and_grammars_hold(tmp_path: Path) -> None:
    build_checkpoint(tmp_path, CheckpointSpec(template="thinking"))
    asyncio.run(check(str(tmp_path)))
