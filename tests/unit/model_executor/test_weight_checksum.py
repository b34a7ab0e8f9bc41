"""The checksum of weights: the same for the same bytes, another for any change."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

Checksum = Callable[[nn.Module], Any]
CHUNK_BYTES = 1 << 16


@pytest.fixture
def checksum() -> Checksum:
    from model_executor.weight_checksum import checksum_weights

    return checksum_weights


def make_model(dtype: torch.dtype = torch.float32, num_rows: int = 300) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(100, num_rows, dtype=dtype), nn.LayerNorm(num_rows, dtype=dtype))


def test_the_same_weights_have_the_same_checksum(checksum: Checksum) -> None:
    found = checksum(make_model())
    assert found == checksum(make_model())
    assert found.num_bytes == 4 * (100 * 300 + 3 * 300) > CHUNK_BYTES


def test_the_checksum_stays_what_it_is(checksum: Checksum) -> None:
    """Servers of different versions are compared."""
    model = nn.Linear(100, 300, bias=False)
    model.weight.data = torch.arange(30_000, dtype=torch.float32).view(300, 100)
    assert checksum(model).checksum == "e1c83e4f0b8a4f6f9c01a2f9c47b4206"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_bit_counts(dtype: torch.dtype, checksum: Checksum) -> None:
    model = make_model(dtype)
    before = checksum(model).checksum
    content = model[0].weight.data.view(torch.uint8).view(-1)
    for place in (0, 1, 2, 3, CHUNK_BYTES // 2, len(content) - 1):
        for bit in (0, 7):
            content[place] ^= 1 << bit
            assert checksum(model).checksum != before, (place, bit)
            content[place] ^= 1 << bit
    assert checksum(model).checksum == before


def test_places_names_types_and_shapes_count(checksum: Checksum) -> None:
    model = make_model()
    swapped = make_model()
    swapped[0].weight.data = swapped[0].weight.data.flip(0).contiguous()
    zeros = [nn.Linear(8, 8, bias=False), nn.Linear(4, 16, bias=False)]
    zeros.append(nn.Linear(8, 16, bias=False, dtype=torch.bfloat16))
    for layer in zeros:
        nn.init.zeros_(layer.weight)
    models = [
        model,
        swapped,
        nn.Sequential(model[1], model[0]),
        *zeros,
        nn.ModuleDict({"other": zeros[0]}),
    ]
    found = {checksum(each).checksum for each in models}
    assert len(found) == len(models)


def test_two_signs_do_not_cancel_out(checksum: Checksum) -> None:
    """A sum of words with odd factors may drop the highest bits of two words."""
    model = make_model()
    before = checksum(model).checksum
    for other in range(1, 200):
        weight = model[0].weight.data.view(-1)
        weight[0], weight[other] = -weight[0], -weight[other]
        assert checksum(model).checksum != before, other
        weight[0], weight[other] = -weight[0], -weight[other]


def test_a_transposed_weight_is_read_as_it_lies(checksum: Checksum) -> None:
    model = nn.Linear(100, 300, bias=False)
    before = checksum(model).checksum
    model.weight.data = model.weight.data.t()
    transposed = checksum(model).checksum
    assert transposed != before  # another shape
    model.weight.data[3, 7] += 1
    assert checksum(model).checksum != transposed


def test_empty_and_odd_sizes_are_fine(checksum: Checksum) -> None:
    model = nn.ParameterList(
        nn.Parameter(torch.ones(size, dtype=torch.float16)) for size in (0, 1, 3, CHUNK_BYTES // 2)
    )
    before = checksum(model)
    assert before.num_bytes == 2 * (4 + CHUNK_BYTES // 2)
    model[2].data[2] = 0
    assert checksum(model).checksum != before.checksum


def test_split_weights_are_not_among_the_replicated(
    checksum: Checksum, monkeypatch: pytest.MonkeyPatch
) -> None:
    import model_executor.weight_checksum as module

    class Column(nn.Linear):
        pass

    class Row(nn.Linear):
        pass

    monkeypatch.setattr(module, "_SPLIT_MODULES", (Column, Row))
    monkeypatch.setattr(module, "RowParallelLinear", Row)
    model = nn.Sequential(Column(4, 4), Row(4, 4), nn.LayerNorm(4))
    before = checksum(model)
    is_replicated = {}
    for name, parameter in model.named_parameters():
        parameter.data[0] += 1
        after = checksum(model)
        assert after.checksum != before.checksum, name
        is_replicated[name] = after.replicated != before.replicated
        parameter.data[0] -= 1
        before = checksum(model)
    assert is_replicated == {
        "0.weight": False,
        "0.bias": False,
        "1.weight": False,
        "1.bias": True,  # added to the sum, and held by all
        "2.weight": True,
        "2.bias": True,
    }
