"""A short soak: it runs, every answer is the one that it has to be, and nothing is left over."""

import json
from pathlib import Path

import pytest

from benchmarks.soak.__main__ import main
from benchmarks.soak.kinds import KINDS
from benchmarks.soak.sample import ENGINE, SERVER

pytestmark = pytest.mark.alone

_NUM_REQUESTS = 200


@pytest.mark.slow
def test_a_short_soak_gets_only_the_answers_that_it_expects(tmp_path: Path) -> None:
    status = main(["--requests", str(_NUM_REQUESTS), "--interval", "0.5", "--out", str(tmp_path)])
    document = json.loads((tmp_path / "soak.json").read_text())
    verdict = document["verdict"]
    assert verdict["unexpected"] == {}
    assert verdict["num_left"] == 0
    assert sum(document["counts"].values()) == document["num_requests"] == _NUM_REQUESTS
    kinds = {name.partition(":")[0] for name in document["counts"]}
    assert kinds <= set(KINDS) and len(kinds) > len(KINDS) // 2
    roles = {one["role"] for one in verdict["series"]}
    assert {SERVER, ENGINE, "server.grammar.worker"} <= roles
    # so few requests decide nothing, or that it is flat: what matters is that the two agree
    assert status == (0 if verdict["holds"] else 1)
    assert (tmp_path / "samples.csv").stat().st_size > 0
    assert (tmp_path / "soak.svg").stat().st_size > 0
