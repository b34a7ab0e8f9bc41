"""A soak's judgement: what it takes for flat, and what it must not."""

import csv
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from benchmarks.soak.__main__ import show, write
from benchmarks.soak.kinds import KINDS, Kinds
from benchmarks.soak.sample import (
    ENGINE,
    SERVER,
    ProcessUse,
    Sample,
    folder_bytes,
    measure_uses,
)
from benchmarks.soak.soak import SoakRun
from benchmarks.soak.trend import fit_trend
from benchmarks.soak.verdict import judge

MIB = 1024**2
REQUESTS = 20_000
WARM_UP = 8000
STEADY = ProcessUse(1, 500 * MIB, 400 * MIB, 300 * MIB, 40, 30)


def make_samples(
    change: Callable[[int, ProcessUse], ProcessUse] = lambda _, use: use, num: int = 200
) -> list[Sample]:
    """Of a server whose memory settles in the warm-up, then wanders by 2 MiB around a level."""
    generator, samples = random.Random(0), []
    for index in range(num + 1):
        requests = index * REQUESTS // num
        filled = min(1.0, requests / (WARM_UP / 2))
        noise = generator.uniform(-2, 2) * MIB
        engine = replace(STEADY, uss_bytes=int(STEADY.uss_bytes * filled + noise))
        uses = {SERVER: change(requests, STEADY), ENGINE: engine}
        samples.append(Sample(index * 3.0, requests, uses, {"host": 4 * MIB}, 0))
    return samples


def leak(bytes_per_request: float) -> Callable[[int, ProcessUse], ProcessUse]:
    return lambda requests, use: replace(
        use, uss_bytes=use.uss_bytes + int(requests * bytes_per_request)
    )


def verdicts(samples: list[Sample]) -> dict[tuple[str, str], str]:
    return {(one.role, one.quantity): one.verdict for one in judge(samples, WARM_UP, {}).series}


def test_memory_that_settles_and_wanders_is_flat():
    verdict = judge(make_samples(), WARM_UP, {})
    assert verdict.holds, verdict
    assert set(verdicts(make_samples()).values()) == {"flat"}


@pytest.mark.parametrize("bytes_per_request", [700, 4096, MIB])
def test_a_leak_of_less_than_a_kilobyte_per_request_is_found(bytes_per_request: int):
    samples = make_samples(leak(bytes_per_request))
    assert verdicts(samples)[SERVER, "uss_bytes"] == "grows"
    assert verdicts(samples)[ENGINE, "uss_bytes"] == "flat"
    assert not judge(samples, WARM_UP, {}).holds


def test_a_leak_in_steps_is_found():
    """As allocators grow: nothing for a while, then 4 MiB at once."""
    stairs = make_samples(
        lambda requests, use: replace(use, uss_bytes=use.uss_bytes + requests // 1000 * 4 * MIB)
    )
    assert verdicts(stairs)[SERVER, "uss_bytes"] == "grows"


@pytest.mark.parametrize("quantity", ["num_fds", "num_threads"])
def test_descriptors_and_threads_that_are_not_given_back_are_found(quantity: str):
    samples = make_samples(
        lambda requests, use: replace(use, **{quantity: getattr(use, quantity) + requests // 200})
    )
    assert verdicts(samples)[SERVER, quantity] == "grows"


def test_peaks_do_not_count_as_growth():
    generator = random.Random(1)
    samples = make_samples(
        lambda _, use: replace(use, uss_bytes=use.uss_bytes + (generator.random() < 0.1) * 99 * MIB)
    )
    assert verdicts(samples)[SERVER, "uss_bytes"] == "flat"


def test_too_few_samples_decide_nothing():
    verdict = judge(make_samples(num=6), WARM_UP, {})
    assert {one.verdict for one in verdict.series} == {"undecided"}
    assert not verdict.holds


def test_what_cannot_be_told_from_growth_is_not_taken_for_flat():
    generator = random.Random(2)
    noisy = make_samples(
        lambda _, use: replace(use, uss_bytes=int(use.uss_bytes + generator.uniform(0, 90) * MIB))
    )
    assert verdicts(noisy)[SERVER, "uss_bytes"] == "undecided"


def test_a_wrong_answer_or_a_request_that_is_left_breaks_the_promise():
    samples = make_samples()
    assert not judge(samples, WARM_UP, {"text: 500": 1}).holds
    left = [*samples, replace(samples[-1], num_in_flight=1)]
    assert not judge(left, WARM_UP, {}).holds


def test_the_slope_of_a_line_is_exact():
    trend = fit_trend(range(100), [5 + 3 * x for x in range(100)])
    assert trend is not None
    assert (trend.slope, trend.low, trend.high) == (3, 3, 3)


def test_all_processes_of_a_server_are_measured():
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command) as child:
        try:
            time.sleep(0.5)
            uses = measure_uses(os.getpid())
        finally:
            child.kill()
    assert uses[SERVER].num_processes == 1
    assert uses[SERVER].uss_bytes > 10 * MIB and uses[SERVER].num_fds > 2
    assert uses["others"].num_processes >= 1


def test_a_process_that_is_gone_takes_nothing():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert measure_uses(child.pid) == {}


def test_the_bytes_of_a_folder_are_those_of_its_files(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"x" * 100)
    (tmp_path / "c").write_bytes(b"x" * 11)
    assert folder_bytes(tmp_path) == 111


def test_results_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    samples = make_samples(leak(MIB), num=50)
    run = SoakRun(150.0, samples, Counter(["text: 200"]), Counter(["text: 500"]))
    verdict = judge(samples, WARM_UP, run.unexpected)
    write(tmp_path, run, verdict, WARM_UP)
    show(run, verdict)
    rows = list(csv.DictReader((tmp_path / "samples.csv").open()))
    assert len(rows) == 51 and rows[0]["server.uss_bytes"] == str(STEADY.uss_bytes)
    document = json.loads((tmp_path / "soak.json").read_text())
    assert document["verdict"]["holds"] is False
    assert (tmp_path / "soak.svg").read_text().count("<svg") == 1
    printed = capsys.readouterr()
    assert "grows      server uss_bytes" in printed.out
    assert printed.out.endswith("does NOT hold\n")
    assert "text: 500" in printed.err


def test_a_seed_gives_the_same_requests_and_they_cover_every_kind():
    one, other = Kinds(7), Kinds(7)
    drawn = [one.draw() for _ in range(600)]
    assert drawn == [other.draw() for _ in range(600)]
    assert {name for name, _ in drawn} == set(KINDS)
    texts = [orjson.dumps(request.body) for name, request in drawn if name == "new image"]
    assert len(texts) == len(set(texts))
