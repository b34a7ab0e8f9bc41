"""How long a context is asked of vLLM, and with which rotary parameters."""

import json
import shutil
from pathlib import Path

import pytest

from server.context_length import ContextLength, find_context_length
from server.settings import EngineSettings, SettingsError

YARN_1M = {  # published for the checkpoints of 262,144 tokens
    "rope_type": "yarn",
    "mrope_section": [6, 5, 5],
    "mrope_interleaved": True,
    "factor": 3.0,
    "original_max_position_embeddings": 262_144,
    "rope_theta": 5_000_000.0,
}


def find(checkpoint: Path, **settings: object) -> ContextLength:
    return find_context_length(str(checkpoint), EngineSettings.model_validate(settings))


def test_the_default_is_the_checkpoint_s(instruct_checkpoint: Path) -> None:
    assert find(instruct_checkpoint) == ContextLength(262_144)


def test_less_may_be_asked_for(instruct_checkpoint: Path) -> None:
    found = find(instruct_checkpoint, max_model_len=4096)
    assert found == ContextLength(4096, {"text_config": {"max_position_embeddings": 4096}})


def test_yarn_has_the_published_form(instruct_checkpoint: Path) -> None:
    found = find(instruct_checkpoint, rope_scaling="yarn-1m")
    assert found.num_tokens == 1_000_000
    assert found.hf_overrides["text_config"] == {
        "rope_parameters": YARN_1M,
        "max_position_embeddings": 1_000_000,
    }


def test_twice_the_length_needs_half_the_frequencies(instruct_checkpoint: Path) -> None:
    found = find(instruct_checkpoint, rope_scaling="yarn-512k")
    assert found.num_tokens == 524_288
    assert found.hf_overrides["text_config"]["rope_parameters"] == YARN_1M | {"factor": 2.0}


def test_yarn_may_be_used_in_part(instruct_checkpoint: Path) -> None:
    found = find(instruct_checkpoint, rope_scaling="yarn-1m", max_model_len=300_000)
    assert found.num_tokens == 300_000
    assert found.hf_overrides["text_config"]["rope_parameters"] == YARN_1M


def test_the_hub_s_older_form_of_the_configuration_is_read(
    instruct_checkpoint: Path, tmp_path: Path
) -> None:
    """`rope_theta` and `rope_scaling` side by side, as in the published files."""
    path = shutil.copytree(instruct_checkpoint, tmp_path / "older")
    config = json.loads((path / "config.json").read_text())
    rope = config["text_config"].pop("rope_parameters")
    config["text_config"]["rope_theta"] = rope.pop("rope_theta")
    config["text_config"]["rope_scaling"] = rope
    (path / "config.json").write_text(json.dumps(config))
    found = find(path, rope_scaling="yarn-1m")
    assert found.hf_overrides["text_config"]["rope_parameters"] == YARN_1M


@pytest.mark.parametrize(
    ("rope_scaling", "longest"),
    [("none", 262_144), ("yarn-512k", 524_288), ("yarn-1m", 1_000_000)],
)
def test_more_than_the_model_can_place_is_refused(
    rope_scaling: str, longest: int, instruct_checkpoint: Path
) -> None:
    find(instruct_checkpoint, rope_scaling=rope_scaling, max_model_len=longest)
    with pytest.raises(SettingsError, match=f"{longest + 1} is more than the {longest} tokens"):
        find(instruct_checkpoint, rope_scaling=rope_scaling, max_model_len=longest + 1)


def test_a_checkpoint_is_not_scaled_twice(instruct_checkpoint: Path, tmp_path: Path) -> None:
    path = shutil.copytree(instruct_checkpoint, tmp_path / "scaled")
    config = json.loads((path / "config.json").read_text())
    config["text_config"]["rope_parameters"] = YARN_1M
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SettingsError, match="scaled already"):
        find(path, rope_scaling="yarn-512k")
