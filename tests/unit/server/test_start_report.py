"""The report of a start, the bar before it, and how the engine tells how far it is."""

import io
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from multimodal.load_progress import Loaded, counted, make_folder, read_loaded, weights_bytes
from multimodal.vision_cache import VisionCacheConfig
from server.engine import EngineDetails, ModelInfo
from server.loading_bar import describe, loading_bar
from server.log_setup import LogHandler
from server.settings import AccessSettings, ServerSettings, Settings
from server.start_report import Facts, list_fields, report_start, to_text

GIB = 2**30
FACTS = Facts(
    settings=Settings(),
    info=ModelInfo("demo", 32768, "ours"),
    details=EngineDetails("NVIDIA H100", "bfloat16", 1, 4, 1, True, None, 0, "0a"),
    cache=VisionCacheConfig("0a", "/run", "/dev/shm/x", 8 * GIB, "/cache", 64 * GIB),
    kind="thinking",
    config={
        "text_config": {"num_experts": 128},
        "quantization_config": {"quant_method": "fp8"},
    },
    url="http://127.0.0.1:8000",
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_report_for_people() -> None:
    assert to_text(list_fields(FACTS)).splitlines() == [
        "  model   demo: thinking, MoE of 128 experts, quantised (fp8)",
        "  layout  TP 4, PP 1, DP 1, EP, on NVIDIA H100, bfloat16, context 32,768 tokens",
        "  cache   device by the step; host 8.0 GiB in /dev/shm/x; disk 64.0 GiB in /cache",
        "  limits  256 requests at once, 64 images and videos each, images to 32.0 MiB, "
        "videos to 256.0 MiB, no API keys",
        "  API     http://127.0.0.1:8000/v1",
        "  page    http://127.0.0.1:8000/",
    ]


def test_a_report_of_less() -> None:
    access = AccessSettings(api_keys_file=Path("keys"))
    facts = replace(
        FACTS,
        settings=Settings(access=access, server=ServerSettings(ui=False)),
        info=replace(FACTS.info, name="evil\x1b[2J", random_weights=True),
        cache=VisionCacheConfig("0a", "/run"),
        kind=None,
        config={},
    )
    text = to_text(list_fields(facts))
    assert "evil?[2J: encoder, dense, not quantised, random weights" in text
    assert "host none; disk none" in text and "API keys are asked for" in text
    assert "page" not in text and "keys," not in text


def test_in_a_log_the_report_is_one_record(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    handler = LogHandler("json")
    caplog.set_level(logging.INFO)
    report_start(FACTS)
    (record,) = caplog.records
    line = handler.format(record)
    values = json.loads(line)
    assert "\n" not in line and values["message"] == "ready"
    assert values["api"] == "http://127.0.0.1:8000/v1" and values["experts"] == 128
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("log_format", "start"), [("text", "\r\x1b[2K2"), ("json", "{")])
def test_lines_clear_what_a_bar_has_left_on_a_terminal(
    log_format, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    record = logging.LogRecord("server", logging.INFO, "file", 1, "words", None, None)
    LogHandler(log_format).emit(record)
    assert terminal.getvalue().startswith(start)


@pytest.mark.parametrize(
    ("loaded", "total_bytes", "line"),
    [
        (None, 100, "starting the engine, 3 s"),
        (Loaded(25, False), 100, "weights [######..................] 25% of 100 B, 3 s"),
        (Loaded(300, False), 100, "weights [########################] 100% of 100 B, 3 s"),
        (Loaded(GIB, False), None, "weights 1.0 GiB, 3 s"),
        (Loaded(100, True), 100, "warming up the engine, 3 s"),
    ],
)
def test_the_bar(loaded: Loaded | None, total_bytes: int | None, line: str) -> None:
    assert describe(loaded, total_bytes, 3.2) == line


def test_loading_is_told_where_somebody_looks_on(tmp_path: Path) -> None:
    weights = [("a", torch.zeros(4)), ("b", torch.zeros(2, dtype=torch.bfloat16))]
    assert counted(weights, str(tmp_path)) is weights
    folder = make_folder(tmp_path)
    assert read_loaded(folder) is None
    passing = iter(counted(weights, str(tmp_path)))
    seen = []
    for name, _ in passing:
        seen.append((name, read_loaded(folder)))
    # what is being loaded counts when the next one is asked for
    assert seen == [("a", Loaded(0, False)), ("b", Loaded(16, False))]
    assert read_loaded(folder) == Loaded(20, True)
    (folder / "999999999").write_bytes(b"\x08" + bytes(8))
    assert read_loaded(folder) == Loaded(8, False)  # the one that is the furthest behind


def test_nothing_is_written_to_a_folder_that_others_have_made(tmp_path: Path) -> None:
    """vLLM's own server has everybody's temporary folder for this."""
    weights = [("a", torch.zeros(4))]
    real = make_folder(tmp_path)
    real.chmod(0o777)
    tmp_path.chmod(0o777)
    assert counted(weights, str(tmp_path)) is weights
    elsewhere = real.rename(tmp_path / "elsewhere")
    elsewhere.chmod(0o700)
    real.symlink_to(elsewhere)
    assert counted(weights, str(tmp_path)) is weights


def test_a_folder_that_goes_away_stops_no_loading(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    passing = iter(counted([("a", torch.zeros(4)), ("b", torch.zeros(4))], str(tmp_path)))
    next(passing)
    shutil.rmtree(folder)
    assert [name for name, _ in passing] == ["b"]


def test_the_size_of_a_checkpoint_is_that_of_its_files(tmp_path: Path) -> None:
    assert weights_bytes(str(tmp_path), None) is None
    for name in ("a.safetensors", "b.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes(bytes(10))
    assert weights_bytes(str(tmp_path), None) == 20


def test_nothing_is_drawn_or_counted_without_a_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with loading_bar(Settings(), "demo", tmp_path):
        assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""
