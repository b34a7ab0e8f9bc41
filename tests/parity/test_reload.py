"""Weights loaded again in place, as after a sleep that has discarded them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from model_executor.parity import EngineUnderTest, ParityCase, Run
from tests.parity.conftest import NUM_TOKENS
from tests.parity.test_model import assert_equal


def reload_weights(under_test: EngineUnderTest) -> None:
    under_test.llm.collective_rpc("reload_weights")
    under_test.llm.llm_engine.reset_encoder_cache()  # what the scheduler believes to be there


def spoil(tensors: Any) -> None:
    for tensor in tensors:
        tensor.data.view(-1).fill_(7 if tensor.is_floating_point() else 0)


@pytest.mark.parametrize("name", ["dense", "dense-tied"])  # vLLM packs experts for a CPU once
def test_reloaded_weights_give_the_same_logits(
    name: str,
    cases: list[ParityCase],
    engine: Callable[..., EngineUnderTest],
    expected: Callable[[str], dict[str, Run]],
) -> None:
    under_test = engine(name)
    rows = under_test.model.deepstack.rows
    spoil(under_test.model.parameters())
    (spoilt,) = under_test.run([cases[1]], NUM_TOKENS)
    assert spoilt.generated != expected(name)[cases[1].name].generated
    reload_weights(under_test)
    assert under_test.model.deepstack.rows.data_ptr() == rows.data_ptr()
    for case in cases:
        (ours,) = under_test.run([case], NUM_TOKENS)
        assert_equal(case, ours, expected(name)[case.name])


def test_all_tensors_that_live_as_long_as_the_model_are_weights_or_buffers(
    engine: Callable[..., EngineUnderTest],
) -> None:
    """Those are what vLLM brings back when it wakes up."""
    model = engine("dense").model
    for name, module in model.named_modules():
        if type(module).__module__.startswith("model_executor."):
            loose = [key for key, value in vars(module).items() if isinstance(value, torch.Tensor)]
            assert loose == [], name
