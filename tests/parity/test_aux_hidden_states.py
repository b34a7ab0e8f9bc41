"""What EAGLE3's drafter is given: the inputs of named layers, DeepStack included."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.distributed import parallel_state
from vllm.model_executor.models.interfaces import supports_eagle3

from model_executor.parity import EngineUnderTest, ParityCase, Reference

LAYERS = (0, 1, 3, 4)  # of four: 0 is the embedding, 4 the output of the last
# float32 on both sides; kernels sum in different orders. Measured here: below 1e-5.
MAX_RELATIVE = 1e-3


def reference_inputs(reference: Reference, case: ParityCase) -> list[torch.Tensor]:
    """(num_tokens, hidden) for each of `LAYERS`, from transformers."""
    model: Any = reference._model.model.language_model
    found: dict[int, torch.Tensor] = {}

    def keep(index: int) -> Callable[..., None]:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            # transformers adds DeepStack to what a layer has given, so the next one's input has it
            found[index] = (args[0] if args else kwargs["hidden_states"])[0].clone()

        return hook

    modules = [*model.layers, model.norm]
    hooks = [
        module.register_forward_pre_hook(keep(index), with_kwargs=True)
        for index, module in enumerate(modules)
    ]
    try:
        reference.run(case, 1)
    finally:
        for hook in hooks:
            hook.remove()
    return [found[index] for index in LAYERS]


def record(
    under_test: EngineUnderTest, case: ParityCase, monkeypatch: pytest.MonkeyPatch, run: Any
) -> Any:
    """What `run` makes of the call of the backbone that has the whole prompt."""
    backbone = under_test.model.language_model.model
    forward = backbone.forward
    calls: list[Any] = []

    def spy(**kwargs: Any) -> torch.Tensor:
        calls.append(run(backbone, forward, kwargs))
        under_test.model.set_aux_hidden_state_layers(())
        hidden_states: torch.Tensor = forward(**kwargs)
        return hidden_states

    monkeypatch.setattr(backbone, "forward", spy)
    under_test.run([case], 1)
    (call,) = calls
    return call


def whole(backbone: Any, forward: Any, kwargs: dict[str, Any]) -> Any:
    backbone._set_aux_hidden_state_layers(LAYERS)
    return forward(**kwargs)


def in_stages(splits: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> Any:
    """As so many pipeline stages as there are splits and one, one after the other."""
    from model_executor.qwen3_vl import language  # a name that vLLM takes until `register()`

    def run(backbone: Any, forward: Any, kwargs: dict[str, Any]) -> Any:
        bounds = (0, *splits, len(backbone.layers))
        handed_on = None
        with monkeypatch.context() as patch:
            for rank in range(len(splits) + 1):
                group = SimpleNamespace(
                    world_size=len(splits) + 1,
                    is_first_rank=rank == 0,
                    is_last_rank=rank == len(splits),
                )
                patch.setattr(language, "get_pp_group", lambda group=group: group)
                patch.setattr(parallel_state, "get_pp_group", lambda group=group: group)
                patch.setattr(backbone, "start_layer", bounds[rank])
                patch.setattr(backbone, "end_layer", bounds[rank + 1])
                backbone._set_aux_hidden_state_layers(LAYERS)
                stage = forward(**{**kwargs, "intermediate_tensors": handed_on})
                if handed_on is not None and rank < len(splits):
                    stage.tensors = {**handed_on.tensors, **stage.tensors}  # vLLM's runner does it
                handed_on = stage
        return handed_on

    return run


def assert_equal(ours: list[torch.Tensor], reference: list[torch.Tensor]) -> None:
    assert [state.shape for state in ours] == [state.shape for state in reference]
    for index, found, expected in zip(LAYERS, ours, reference, strict=True):
        difference = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
        assert difference.max() <= MAX_RELATIVE, index


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_they_are_the_inputs_of_the_named_layers(
    name: str,
    cases: list[ParityCase],
    engine: Callable[..., EngineUnderTest],
    reference: Callable[[str], Reference],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = cases[1]
    assert case.items
    _, states = record(engine(name), case, monkeypatch, whole)
    assert_equal(states, reference_inputs(reference(name), case))


@pytest.mark.parametrize("name", ["dense", "moe"])
@pytest.mark.parametrize("splits", [(3,), (3, 4)])
def test_pipeline_stages_hand_them_on_once_each(
    name: str,
    splits: tuple[int, ...],
    cases: list[ParityCase],
    engine: Callable[..., EngineUnderTest],
    reference: Callable[[str], Reference],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A split at a named layer, whose input one stage computes and the next one has, too."""
    case = cases[1]
    _, states = record(engine(name), case, monkeypatch, in_stages(splits, monkeypatch))
    assert_equal(states, reference_inputs(reference(name), case))


def test_the_model_has_eagle3s_interface(engine: Callable[..., EngineUnderTest]) -> None:
    model = engine("dense").model
    assert supports_eagle3(model)
    assert model.get_eagle3_default_aux_hidden_state_layers() == (2, 2, 1)  # of four layers
    language_model = model.get_language_model()
    assert language_model.model.supports_aux_hidden_states_over_pp
    # what a drafter may share
    assert language_model.model.embed_tokens.weight.shape[0] == model.config.text_config.vocab_size
    assert language_model.lm_head is model.language_model.lm_head
    assert type(model).__name__ == "Qwen3VLForConditionalGeneration"  # vLLM knows its image token
    assert isinstance(model.config.image_token_id, int)
