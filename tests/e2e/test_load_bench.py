"""`qwen3vl-serve bench` as a command, against servers of known delays that it starts itself."""

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.alone, pytest.mark.slow]

_PROGRAM = str(Path(sys.executable).with_name("qwen3vl-serve"))
_FAKE = [sys.executable, "-m", "benchmarks.load.fake_server", "--port", "{port}"]


def fake(*flags: str) -> str:
    return shlex.join([*_FAKE, *flags])


def bench(*flags: object) -> subprocess.CompletedProcess[str]:
    command = [_PROGRAM, "bench", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def last_document(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def records(folder: Path) -> Sequence[Any]:
    return [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]


def test_a_run_leaves_a_result_a_report_and_every_request(tmp_path: Path) -> None:
    done = bench(
        *("--command", fake("--ttft-ms", "20", "--itl-ms", "2"), "--workload", "images"),
        *("--image-sizes", "64x64", "--output-tokens", 4, "--num-requests", 24),
        *("--concurrency", "1,4", "--slo", "ttft_p50=10ms", "--slo", "ttft_p50=60s"),
        *("--output-dir", tmp_path, "--seed", 5),
    )
    document = last_document(done)
    assert json.loads((tmp_path / "result.json").read_text()) == document
    report = (tmp_path / "report.html").read_text()
    assert "<svg" in report and "4 at once" in report
    assert [step["load"]["concurrency"] for step in document["steps"]] == [1, 4]
    for step in document["steps"]:
        (summary,) = step["summaries"]
        assert summary["totals"]["answered"] == 24
        assert summary["totals"]["images"] == 24
        assert summary["totals"]["completion_tokens"] == 96
        assert summary["latencies"]["ttft"]["p50"] >= 0.02
        assert [goodput["is_held"] for goodput in summary["goodput"]] == [False, True]
        # every image is new
        assert summary["caches"]["processor"] == {"hits": 0, "queries": 24}
    (target,) = document["targets"]
    assert target["ready_s"] > 0
    assert target["memory"]["peak_bytes"] >= target["memory"]["idle_bytes"] > 0
    assert target["version"] == {"version": "fake"}
    written = records(tmp_path)
    assert len(written) == 48
    # four at a time at the second load, never more
    assert most_at_once([r for r in written if r["step"] == 0]) == 1
    assert most_at_once([r for r in written if r["step"] == 1]) == 4


def most_at_once(written: Sequence[Any]) -> int:
    changes = [(r["sent_s"], 1) for r in written] + [(r["end_s"], -1) for r in written]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most


def test_an_open_loop_does_not_wait_for_the_server(tmp_path: Path) -> None:
    """Two places of 0.2 s are 10 requests/s: at 40 the queue grows, and latencies tell."""
    slow = fake("--ttft-ms", "200", "--itl-ms", "1", "--max-concurrent", "2")
    document = last_document(
        bench(
            *("--command", slow, "--request-rate", 40, "--num-requests", 40),
            *("--output-tokens", 1, "--num-warmups", 0, "--output-dir", tmp_path),
        )
    )
    written = sorted(records(tmp_path), key=lambda r: r["scheduled_s"])
    due_s = written[-1]["scheduled_s"] - written[0]["scheduled_s"]
    served_s = written[-1]["end_s"] - written[0]["scheduled_s"]
    assert served_s >= 3.9  # 40 requests, 2 at a time
    assert due_s < served_s / 2
    (summary,) = document["steps"][0]["summaries"]
    assert (
        summary["latencies"]["ttft"]["max"] >= written[-1]["first_s"] - written[-1]["scheduled_s"]
    )
    assert written[-1]["first_s"] - written[-1]["scheduled_s"] > 1


def test_two_servers_get_the_same_requests_and_a_ratio(tmp_path: Path) -> None:
    document = last_document(
        bench(
            *("--command", fake("--ttft-ms", "10", "--itl-ms", "5")),
            *("--vs-command", fake("--ttft-ms", "200", "--itl-ms", "40")),
            *("--workload", "reuse", "--reuse", 0.5, "--image-sizes", "64x64"),
            *("--num-requests", 40, "--num-blocks", 5, "--concurrency", 4),
            *("--output-tokens", 8, "--output-dir", tmp_path),
        )
    )
    (step,) = document["steps"]
    ratios = {ratio["metric"]: ratio for ratio in step["ratios"]}
    for ratio in ratios.values():
        assert ratio["low"] <= ratio["ratio"] <= ratio["high"]
    assert ratios["ttft_p50"]["low"] > 1.5
    assert ratios["tpot_p50"]["low"] > 1.5
    assert step["num_blocks"] == 5
    written = records(tmp_path)
    first, second = ([r for r in written if r["target"] == target] for target in (0, 1))
    asked = [{(r["conversation"], r["num_bytes"]) for r in own} for own in (first, second)]
    assert asked[0] == asked[1]
    assert len(asked[0]) == 40
    # in turn: no request of the one while the other is asked
    blocks = sorted({(r["block"], r["target"]) for r in written})
    spans = {
        key: (
            min(r["sent_s"] for r in written if (r["block"], r["target"]) == key),
            max(r["end_s"] for r in written if (r["block"], r["target"]) == key),
        )
        for key in blocks
    }
    ordered = sorted(spans.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(ordered))


def test_the_highest_rate_is_that_of_the_server(tmp_path: Path) -> None:
    """Four places of 0.1 s are 40 requests/s."""
    server = fake("--ttft-ms", "100", "--itl-ms", "1", "--max-concurrent", "4")
    document = last_document(
        bench(
            *("--command", server, "--ramp", "--slo", "ttft_p90=400ms", "--request-rate", 15),
            *("--num-requests", 90, "--output-tokens", 1, "--output-dir", tmp_path),
            *("--seed", 1),
        )
    )
    (highest,) = document["highest"]
    assert highest["request_rate"] <= 60
    assert len(document["steps"]) >= 3


def test_failures_are_counted_and_do_not_end_the_run(tmp_path: Path) -> None:
    faults = json.dumps({"503": 0.3, "cut": 0.2})
    server = fake("--ttft-ms", "5", "--itl-ms", "1", "--faults", faults)
    done = bench(
        *("--command", server, "--num-requests", 60, "--output-tokens", 4),
        *("--output-dir", tmp_path),
    )
    (summary,) = last_document(done)["steps"][0]["summaries"]
    errors = summary["totals"]["errors"]
    assert set(errors) == {"http_5xx", "disconnect"}
    assert summary["totals"]["answered"] + sum(errors.values()) == 60
    assert any("http_5xx" in warning for warning in last_document(done)["warnings"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--base-url", "http://127.0.0.1:9"], "http://127.0.0.1:9/v1/models"),
        (["--command", "false {port}"], "the server does not start"),
        (["--command", "no-such-program {port}"], "the server does not start"),
        (["--dataset", "no-such-file.jsonl"], "no-such-file.jsonl"),
        (["--media-dir", "no-such-folder", "--workload", "images"], "no-such-folder"),
    ],
)
def test_what_cannot_be_run_says_so_in_a_line(
    flags: list[str], message: str, tmp_path: Path
) -> None:
    done = bench(*flags, "--output-dir", tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_answers_nothing_ends_the_run_at_the_warm_up(tmp_path: Path) -> None:
    done = bench("--command", fake("--faults", '{"400": 1.0}'), "--output-dir", tmp_path)
    assert done.returncode == 1
    assert "answers none of the warm-up requests: http_4xx" in done.stderr


def test_what_was_measured_before_an_interruption_is_kept(tmp_path: Path) -> None:
    """The second load would take minutes."""
    command = [_PROGRAM, "bench", "--command", fake("--ttft-ms", "20", "--itl-ms", "1000")]
    command += ["--concurrency", "1,2", "--num-requests", "1,400", "--output-tokens", "2"]
    command += ["--num-warmups", "0", "--output-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        requests = tmp_path / "requests.jsonl"
        while not (requests.exists() and requests.read_bytes()):  # the first step has ended
            time.sleep(0.1)
        time.sleep(3)  # requests of the second one are answered
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    document = json.loads(output.splitlines()[-1])
    assert document == json.loads((tmp_path / "result.json").read_text())
    assert len(document["steps"]) == 1
    assert document["warnings"][0].startswith("Interrupted")
    (target,) = document["targets"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{target['base_url']}/health")


def test_a_profile_is_asked_for_and_its_files_are_named(tmp_path: Path) -> None:
    done = bench(
        *("--command", fake("--ttft-ms", "1", "--itl-ms", "1"), "--profile", "py-spy"),
        *("--num-requests", 4, "--output-tokens", 2, "--output-dir", tmp_path),
    )
    document = last_document(done)
    assert document["profiles"] == ["/profiles/py-spy.trace"]
    assert any("Profiled with py-spy" in warning for warning in document["warnings"])


def test_secrets_are_not_written(tmp_path: Path) -> None:
    command = f"env SOME_API_KEY=abcdef {fake('--ttft-ms', '1', '--itl-ms', '1')}"
    done = bench(
        *("--command", command, "--num-requests", 2, "--output-tokens", 2),
        *("--output-dir", tmp_path),
    )
    document = last_document(done)
    assert "abcdef" not in "".join(p.read_text() for p in tmp_path.iterdir()) + done.stdout
    assert "SOME_API_KEY=***" in document["targets"][0]["command"]
    assert document["arguments"][-2] == "--seed"  # it was drawn


def test_two_results_are_compared(tmp_path: Path) -> None:
    for name, ttft_ms in (("a", 400), ("b", 20)):
        done = bench(
            *("--command", fake("--ttft-ms", str(ttft_ms), "--itl-ms", "1"), "--seed", 1),
            *("--num-requests", 10, "--output-tokens", 2, "--output-dir", tmp_path / name),
        )
        assert done.returncode == 0, done.stderr
    done = bench("--compare", tmp_path / "a" / "result.json", tmp_path / "b" / "result.json")
    rows = last_document(done)["steps"][0]["rows"]
    ttft = next(row for row in rows if row["name"] == "TTFT p50")
    assert ttft["ratio"] == pytest.approx(ttft["a"] / ttft["b"])
    assert ttft["ratio"] > 1.5
    assert "TTFT p50" in done.stdout


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    done = bench("--compare", tmp_path / "x.json", tmp_path / "x.json")
    assert done.returncode == 1
    assert "x.json" in done.stderr and "Traceback" not in done.stderr
