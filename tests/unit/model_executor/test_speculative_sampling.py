"""Values of requests for each of their drafted tokens, as vLLM's own function should give them."""

from collections.abc import Callable

import pytest
import torch

Expand = Callable[..., torch.Tensor]


@pytest.fixture
def expand() -> Expand:
    from model_executor.speculative_sampling import expand_batch_to_tokens

    return expand_batch_to_tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.int64])
def test_each_value_comes_once_for_each_token_of_its_request(
    dtype: torch.dtype, expand: Expand
) -> None:
    values = torch.tensor([2, 3, 4], dtype=dtype)
    expanded = expand(values, torch.tensor([2, 2, 5], dtype=torch.int32), 5)
    assert expanded.tolist() == [2, 2, 4, 4, 4]
    assert expanded.dtype == dtype


def test_a_value_can_be_replaced(expand: Expand) -> None:
    temperatures = torch.tensor([0.0, 0.5])
    expanded = expand(temperatures, torch.tensor([1, 3]), 3, replace_from=0, replace_to=1)
    assert expanded.tolist() == [1.0, 0.5, 0.5]
    assert temperatures.tolist() == [0.0, 0.5]


def test_top_k_zero_stays_when_nothing_is_to_be_replaced(expand: Expand) -> None:
    assert expand(torch.tensor([0, 7]), torch.tensor([1, 2]), 2).tolist() == [0, 7]


def test_vllm_is_given_it(expand: Expand, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.sample import rejection_sampler

    from model_executor.speculative_sampling import repair_expansion

    monkeypatch.setattr(rejection_sampler, "expand_batch_to_tokens", None)
    repair_expansion()
    assert rejection_sampler.expand_batch_to_tokens is expand
