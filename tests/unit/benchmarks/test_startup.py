"""The start-up measurement waits for the first 200 and leaves nothing running."""

import shlex
import sys

import pytest

from benchmarks.report import Sample
from benchmarks.servers import Launch, running
from benchmarks.startup import measure_start, report

_SERVER = """
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    answers = iter([503, 503, 200])
    def do_GET(self):
        self.send_response(next(Handler.answers)); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
_COMMAND = f"{sys.executable} -c {shlex.quote(_SERVER)} {{port}}"


def test_a_start_ends_with_the_first_200() -> None:
    assert measure_start(_COMMAND, timeout_s=30) > 0


def test_variables_of_a_command_stand_before_it() -> None:
    script = "import os, sys; sys.exit(int(os.environ['STATUS']))"
    launch = Launch([sys.executable, "-c", script], {"STATUS": "7"})
    with pytest.raises(RuntimeError, match="status 7"):
        measure_start(launch.command_line, timeout_s=30)


def test_a_running_server_tells_its_process_and_how_long_it_took() -> None:
    with running(Launch(shlex.split(_COMMAND)), timeout_s=30) as server:
        assert server.base_url.startswith("http://127.0.0.1:")
        with open(f"/proc/{server.pid}/cmdline") as file:
            assert server.base_url.rpartition(":")[2] in file.read()
    assert server.ready_s > 0


def test_a_command_that_ends_is_reported() -> None:
    with pytest.raises(RuntimeError, match="status 3"):
        measure_start(f"{sys.executable} -c 'raise SystemExit(3)'", timeout_s=30)


def test_the_report_is_of_medians_and_has_an_aim_if_one_is_wanted() -> None:
    samples = [Sample(5, 20), Sample(4, 80), Sample(9, 30)]
    found = report(samples, min_ratio=4)
    assert [(row.ours, row.stock, row.ratio) for row in found.rows] == [(5, 30, 6)]
    assert [aim.is_met for aim in found.aims] == [True]
    assert report(samples, min_ratio=None).aims == []
