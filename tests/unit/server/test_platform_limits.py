"""Settings that are right in themselves, and that a CPU cannot do."""

from collections.abc import Callable
from typing import Any

import pytest

from server.cli import main
from server.settings import EngineSettings, SettingsError

NGRAM = {"method": "ngram", "num_speculative_tokens": 2}


@pytest.fixture
def check() -> Callable[..., None]:
    from server.vllm_args import check_platform

    return lambda **settings: check_platform(EngineSettings(profile="cpu", **settings))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"enable_sleep_mode": True}, "engine.enable_sleep_mode"),
        (
            {"speculative_config": NGRAM, "pipeline_parallel_size": 2},
            "engine.speculative_config",
        ),
    ],
)
def test_it_is_refused_by_name(
    settings: dict[str, Any], name: str, check: Callable[..., None]
) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: .*GPU"):
        check(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"speculative_config": NGRAM},
        {"speculative_config": NGRAM, "tensor_parallel_size": 2},
        {"pipeline_parallel_size": 2},
    ],
)
def test_everything_else_is_not(settings: dict[str, Any], check: Callable[..., None]) -> None:
    check(**settings)


def test_the_server_says_so_instead_of_starting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    flags = ("--port", "0", "--profile", "cpu", "--enable-sleep-mode", "true")
    assert main(["serve", "demo", *flags]) == 2
    assert "engine.enable_sleep_mode: the engine can only sleep on a GPU" in capsys.readouterr().err
