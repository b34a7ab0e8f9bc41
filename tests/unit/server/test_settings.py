import json
import os
from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import ValidationError

from multimodal.options import MediaLimits
from server.settings import MediaSettings, Settings, SettingsError, load_settings
from server.settings import render_settings_table as render_table


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in [name for name in os.environ if name.upper().startswith("QWEN3VL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def write_config(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return path

    return write


def test_defaults_bind_to_the_loopback_address():
    assert load_settings(None, {}).server.host == "127.0.0.1"


def test_plain_http_is_off_by_default():
    assert load_settings(None, {}).media.http_allowed is False


def test_file_beats_default(write_config):
    settings = load_settings(write_config("server: {port: 1111}"), {})
    assert settings.server.port == 1111


def test_environment_beats_file(monkeypatch, write_config):
    monkeypatch.setenv("QWEN3VL_SERVER__PORT", "2222")
    settings = load_settings(write_config("server: {port: 1111, host: h}"), {})
    assert (settings.server.port, settings.server.host) == (2222, "h")


def test_flag_beats_environment(monkeypatch):
    monkeypatch.setenv("QWEN3VL_SERVER__PORT", "2222")
    assert load_settings(None, {"server": {"port": 3333}}).server.port == 3333


def test_list_in_the_environment_is_split_at_commas(monkeypatch):
    monkeypatch.setenv("QWEN3VL_MEDIA__ALLOWED_DOMAINS", "a.example, *.b.example")
    assert load_settings(None, {}).media.allowed_domains == ("a.example", "*.b.example")


@pytest.mark.parametrize("name", ["QWEN3VL_PORT", "QWEN3VL_SERVER__PROT", "QWEN3VL_SERVER"])
def test_unknown_variable_refuses_to_start(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=name):
        load_settings(None, {})


def test_unknown_key_of_the_file_refuses_to_start(write_config):
    with pytest.raises(SettingsError, match=r"server\.prot: unknown setting"):
        load_settings(write_config("server: {prot: 1}"), {})


def test_unknown_group_of_the_file_refuses_to_start(write_config):
    with pytest.raises(SettingsError, match="srever: unknown setting"):
        load_settings(write_config("srever: {port: 1}"), {})


def test_value_out_of_bounds_names_variable_bound_and_value(monkeypatch):
    monkeypatch.setenv("QWEN3VL_SERVER__PORT", "99999")
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {})
    message = str(caught.value)
    assert all(word in message for word in ("QWEN3VL_SERVER__PORT", "65535", "99999"))


def test_file_that_is_no_mapping_is_refused(write_config):
    with pytest.raises(SettingsError, match="must hold the groups"):
        load_settings(write_config("- 1"), {})


def test_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path / "none.yaml", {})


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        ({"role": "language"}, "encoder_url"),
        ({"encoder_url": "http://encoder:8001"}, "encoder_url"),
        ({"role": "encoder", "encoder_url": "http://encoder:8001"}, "encoder_url"),
        ({"role": "language", "encoder_url": "encoder:8001"}, "encoder_url"),
        ({"role": "language", "encoder_url": "http://encoder/v1"}, "encoder_url"),
        ({"role": "language", "encoder_url": "http://me:secret@encoder"}, "encoder_url"),
        ({"role": "encoder", "tensor_parallel_size": 2}, "role"),
        ({"role": "encoder", "pipeline_parallel_size": 2}, "role"),
        ({"role": "language", "cudagraph_mm_encoder": True}, "role"),
        ({"role": "decoder"}, "role"),
    ],
)
def test_a_role_is_refused_that_does_not_go_with_the_rest(engine, name):
    with pytest.raises(SettingsError, match=rf"^engine\.{name} "):
        load_settings(None, {"engine": engine})


@pytest.mark.parametrize(
    "engine",
    [
        {"role": "encoder"},
        {"role": "encoder", "tensor_parallel_size": 2, "mm_encoder_tp_mode": "data"},
        {"role": "encoder", "cudagraph_mm_encoder": True},
        {"role": "language", "encoder_url": "http://127.0.0.1:8001"},
        {"role": "language", "encoder_url": "https://encoder.example/"},
        {"role": "language", "encoder_url": "http://[::1]:8001", "tensor_parallel_size": 2},
    ],
)
def test_a_role_may_be_one_half_of_the_model(engine):
    assert load_settings(None, {"engine": engine}).engine.role == engine["role"]


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().server.port = 1


def test_every_media_limit_is_a_setting_with_the_same_default():
    assert MediaSettings().limits == MediaLimits()
    assert {field.name for field in fields(MediaLimits)} <= set(MediaSettings.model_fields)


def test_limits_follow_the_settings():
    assert MediaSettings(max_frames=8).limits.max_frames == 8


def test_table_has_one_row_per_setting_with_a_meaning():
    rows = render_table().splitlines()[2:]
    groups = [group.annotation.model_fields for group in Settings.model_fields.values()]
    assert len(rows) == sum(map(len, groups))
    assert all(row.split(" | ")[3].strip(" |") not in ("", "None") for row in rows)
    assert "| `server.port` | `QWEN3VL_SERVER__PORT` | `8000` |" in render_table()


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        ({"lora_dir": "/adapters"}, "engine.lora_dir .*needs enable_lora"),
        ({"lora_modules": "a=/a"}, "engine.lora_modules .*needs enable_lora"),
        ({"enable_lora": True, "lora_modules": "a"}, "engine.lora_modules"),
        ({"enable_lora": True, "lora_modules": "a b=/a"}, "engine.lora_modules"),
        ({"max_lora_rank": 7}, "engine.max_lora_rank .*must be one of 1, 8, .*given: 7"),
        ({"max_loras": 20}, r"engine.max_cpu_loras .*must be at least max_loras \(20\)"),
    ],
)
def test_settings_of_adapters_must_fit_together(engine, reason):
    with pytest.raises(SettingsError, match=reason):
        load_settings(None, {"engine": engine})


def test_adapters_are_separated_by_commas():
    engine = {"enable_lora": "true", "lora_modules": "a=/a, b=b/c", "max_lora_rank": "64"}
    settings = load_settings(None, {"engine": engine}).engine
    assert settings.lora_modules == ("a=/a", "b=b/c")
    assert settings.max_lora_rank == 64


_NGRAM = {"method": "ngram", "num_speculative_tokens": 2}


def test_speculation_is_json_or_a_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"engine": {"speculative_config": json.dumps(_NGRAM)}}
    assert load_settings(None, given).engine.speculative_config == _NGRAM
    path = tmp_path / "settings.yaml"
    path.write_text("engine: {speculative_config: {method: ngram, num_speculative_tokens: 2}}")
    assert load_settings(path, {}).engine.speculative_config == _NGRAM
    monkeypatch.setenv("QWEN3VL_ENGINE__SPECULATIVE_CONFIG", json.dumps(_NGRAM))
    assert load_settings(None, {}).engine.speculative_config == _NGRAM


@pytest.mark.parametrize("value", ["{method: ngram}", "[1]", "{}", "ngram"])
def test_speculation_must_be_an_object_with_something_in_it(value: str) -> None:
    with pytest.raises(SettingsError, match=r"^engine\.speculative_config"):
        load_settings(None, {"engine": {"speculative_config": value}})


def test_bytes_of_all_requests_are_at_least_those_of_one_body():
    with pytest.raises(
        SettingsError, match=r"server\.max_total_body_bytes.*max_body_bytes \(2048\)"
    ):
        load_settings(None, {"server": {"max_body_bytes": 2048, "max_total_body_bytes": 2047}})
    load_settings(None, {"server": {"max_body_bytes": 2048, "max_total_body_bytes": 2048}})
