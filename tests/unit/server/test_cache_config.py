import logging
import os
from types import SimpleNamespace

import pytest

from multimodal.vision_cache import VisionCacheConfig
from server import cache_config
from server.cache_config import vision_cache_config
from server.settings import CacheSettings, EngineSettings

GIB = 1024**3
NAMESPACE = "0a" * 32


@pytest.fixture
def asked_for(monkeypatch):
    """What the namespace was asked of; it is always the same."""
    asked = []

    def answer(model, revision, **runtime):
        asked.append((model, revision, runtime))
        return NAMESPACE

    monkeypatch.setattr(cache_config, "vision_namespace", answer)
    return asked


@pytest.fixture
def shared_memory(monkeypatch, tmp_path):
    """Has 4 GiB free."""
    monkeypatch.setattr(cache_config, "_SHARED_MEMORY", tmp_path)
    set_free(monkeypatch, 4 * GIB)
    return tmp_path


def set_free(monkeypatch, num_bytes: int) -> None:
    usage = SimpleNamespace(free=num_bytes)
    monkeypatch.setattr(cache_config.shutil, "disk_usage", lambda path: usage)


def make_config(
    tmp_path, *, model="model", device="cpu", engine=None, **cache
) -> VisionCacheConfig:
    return vision_cache_config(
        model, engine or EngineSettings(), CacheSettings(**cache), device, tmp_path / "patches"
    )


@pytest.mark.usefixtures("asked_for")
def test_the_default_is_a_folder_of_this_user_in_shared_memory(tmp_path, shared_memory):
    config = make_config(tmp_path)
    assert config.host_dir == str(shared_memory / f"qwen3vl-serve-{os.geteuid()}")


@pytest.mark.usefixtures("asked_for", "shared_memory")
@pytest.mark.parametrize(
    ("num_free", "host_bytes"), [(4 * GIB, GIB), (32 * GIB, 8 * GIB), (1000 * GIB, 8 * GIB)]
)
def test_the_default_is_a_quarter_of_what_is_free_and_8_gib_at_most(
    tmp_path, monkeypatch, num_free, host_bytes
):
    set_free(monkeypatch, num_free)
    assert make_config(tmp_path).host_bytes == host_bytes


@pytest.mark.usefixtures("asked_for")
def test_without_shared_memory_there_is_no_host_tier(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_config, "_SHARED_MEMORY", tmp_path / "missing")
    config = make_config(tmp_path)
    assert (config.host_dir, config.host_bytes) == (None, 0)


@pytest.mark.usefixtures("asked_for", "shared_memory")
def test_folder_and_budget_can_be_chosen(tmp_path):
    config = make_config(tmp_path, host_dir="/run/cache", host_bytes=123)
    assert (config.host_dir, config.host_bytes) == ("/run/cache", 123)


@pytest.mark.usefixtures("asked_for", "shared_memory")
@pytest.mark.parametrize("host_dir", [None, "/run/cache"])
def test_a_budget_of_zero_turns_the_host_tier_off(tmp_path, host_dir):
    config = make_config(tmp_path, host_dir=host_dir, host_bytes=0)
    assert config.host_dir is None
    assert list(config.open_tiers().counts()) == []


@pytest.mark.usefixtures("asked_for", "shared_memory")
def test_there_is_no_disk_tier_by_default(tmp_path):
    assert make_config(tmp_path).disk_dir is None


@pytest.mark.usefixtures("asked_for", "shared_memory")
def test_the_disk_tier_is_as_it_was_set(tmp_path):
    config = make_config(tmp_path, disk_dir="/srv/cache", disk_bytes=456)
    assert (config.disk_dir, config.disk_bytes) == ("/srv/cache", 456)


@pytest.mark.usefixtures("asked_for", "shared_memory")
def test_the_tiers_are_opened_fastest_first(tmp_path):
    config = make_config(tmp_path, disk_dir=str(tmp_path / "disk"))
    assert list(config.open_tiers().counts()) == ["host", "disk"]


@pytest.mark.usefixtures("asked_for", "shared_memory")
def test_the_configuration_survives_the_way_to_another_process(tmp_path):
    config = make_config(tmp_path, disk_dir="/srv/cache")
    assert VisionCacheConfig.from_dict(config.to_dict()) == config


@pytest.mark.usefixtures("asked_for", "shared_memory")
def test_patches_are_handed_over_in_the_folder_of_this_run(tmp_path):
    assert make_config(tmp_path).handover_dir == str(tmp_path / "patches")


@pytest.mark.usefixtures("shared_memory")
def test_the_namespace_is_that_of_what_is_run(tmp_path, asked_for):
    engine = EngineSettings(revision="main", dtype="bfloat16", tensor_parallel_size=2)
    config = make_config(tmp_path, model="/models/one", engine=engine, device="cuda")
    assert config.namespace == NAMESPACE
    runtime = {"dtype": "bfloat16", "device": "cuda", "tensor_parallel_size": 2}
    assert asked_for == [("/models/one", "main", runtime)]


@pytest.mark.usefixtures("shared_memory")
def test_ranks_with_all_vision_weights_share_entries_with_a_single_one(tmp_path, asked_for):
    spread = EngineSettings(tensor_parallel_size=4, mm_encoder_tp_mode="data")
    make_config(tmp_path, engine=spread)
    make_config(tmp_path, engine=EngineSettings())
    assert asked_for[0] == asked_for[1]


@pytest.mark.usefixtures("shared_memory")
def test_both_halves_of_a_model_have_one_namespace(tmp_path, asked_for):
    """Whatever is shared of the language model."""
    encoder = EngineSettings(role="encoder")
    language = EngineSettings(
        role="language", encoder_url="http://encoder:1", tensor_parallel_size=4
    )
    assert make_config(tmp_path, engine=encoder).has_encoder
    assert not make_config(tmp_path, engine=language).has_encoder
    assert asked_for[0] == asked_for[1]


@pytest.mark.usefixtures("asked_for", "shared_memory")
def test_half_a_model_needs_a_tier_that_it_shares(tmp_path):
    encoder = EngineSettings(role="encoder")
    with pytest.raises(ValueError, match="cache"):
        make_config(tmp_path, engine=encoder, host_bytes=0)
    config = make_config(tmp_path, engine=encoder, host_bytes=0, disk_dir="/srv/cache")
    assert config.disk_dir == "/srv/cache"


@pytest.mark.usefixtures("shared_memory")
def test_attention_that_was_asked_for_has_a_namespace_of_its_own(tmp_path, asked_for):
    for name in ("TORCH_SDPA", "torch_sdpa"):
        make_config(tmp_path, engine=EngineSettings(mm_encoder_attn_backend=name))
    assert asked_for[0] == asked_for[1]
    assert asked_for[0][2]["mm_encoder_attn_backend"] == "TORCH_SDPA"


@pytest.mark.usefixtures("shared_memory")
def test_a_checkpoint_in_safetensors_keeps_its_namespace(tmp_path, instruct_checkpoint, caplog):
    first, second = (make_config(tmp_path, model=str(instruct_checkpoint)) for _ in range(2))
    assert first.namespace == second.namespace
    assert caplog.records == []


@pytest.mark.usefixtures("shared_memory")
def test_a_checkpoint_in_another_format_gets_a_new_namespace_each_time(tmp_path, caplog):
    first, second = (make_config(tmp_path, model=str(tmp_path)) for _ in range(2))
    assert first.namespace != second.namespace
    assert len(bytes.fromhex(first.namespace)) == 32
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert caplog.messages[0].startswith("the vision cache will not outlive this process")
