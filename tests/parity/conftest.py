"""Random checkpoints and the reference's answers to the standard cases, made once per session."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from demo.checkpoint import CheckpointSpec
from demo.random_checkpoint import build_checkpoint
from model_executor.parity import EngineUnderTest, ParityCase, Reference, Run
from model_executor.parity_cases import CaseBuilder
from multimodal.preprocessor_config import load_preprocessor_config
from multimodal.vllm_plugin import register

NUM_TOKENS = 64

SPECS = {
    "dense": CheckpointSpec(),
    "dense-tied": CheckpointSpec(is_tied=True),
    "dense-yarn": CheckpointSpec(yarn_factor=3.0, max_position_embeddings=512),
    "dense-head-128": CheckpointSpec(head_dim=128, mrope_section=(24, 20, 20), num_heads=2),
    "moe": CheckpointSpec(is_moe=True),
    "moe-tied": CheckpointSpec(is_moe=True, is_tied=True),
    "moe-transformers5": CheckpointSpec(is_moe=True, expert_layout="transformers5"),
    "moe-per-expert": CheckpointSpec(is_moe=True, expert_layout="per_expert"),
    # hidden = 2 * moe_intermediate: the fused gate_up_proj is square
    "moe-square": CheckpointSpec(is_moe=True, moe_intermediate_size=64),
    "moe-square-transformers5": CheckpointSpec(
        is_moe=True, moe_intermediate_size=64, expert_layout="transformers5"
    ),
}
# transformers does not load experts one by one, nor does it see how a square tensor lies: the same
# weights in another layout stand in.
REFERENCE_OF = {"moe-per-expert": "moe", "moe-square": "moe-square-transformers5"}


@pytest.fixture(scope="session", autouse=True)
def plugin() -> None:
    register()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Name of a spec -> folder."""

    @cache
    def build(name: str) -> str:
        folder: Path = tmp_path_factory.mktemp("checkpoints") / name
        return str(build_checkpoint(folder, SPECS[name]))

    return build


@pytest.fixture(scope="session")
def builder(checkpoint: Callable[[str], str]) -> CaseBuilder:
    """All checkpoints share a tokenizer and preprocessor, so all can share cases."""
    return CaseBuilder(checkpoint("dense"))


@pytest.fixture(scope="session")
def cases(builder: CaseBuilder) -> list[ParityCase]:
    return builder.standard_cases()


@pytest.fixture(scope="session")
def reference(checkpoint: Callable[[str], str]) -> Callable[[str], Reference]:
    @cache
    def load(name: str) -> Reference:
        model = checkpoint(REFERENCE_OF.get(name, name))
        return Reference(model, load_preprocessor_config(model))

    return load


@pytest.fixture
def engine(checkpoint: Callable[[str], str]) -> Iterator[Callable[..., EngineUnderTest]]:
    """Name of a spec, engine options -> the test's engine; closed with the test."""
    with ExitStack() as stack:

        def start(name: str, **options: Any) -> EngineUnderTest:
            under_test = EngineUnderTest(checkpoint(name), max_model_len=1024, **options)
            stack.callback(under_test.close)
            return under_test

        yield start


@pytest.fixture(scope="session")
def expected(
    cases: list[ParityCase], reference: Callable[[str], Reference]
) -> Callable[[str], dict[str, Run]]:
    @cache
    def run(name: str) -> dict[str, Run]:
        return {case.name: reference(name).run(case, NUM_TOKENS) for case in cases}

    return run
