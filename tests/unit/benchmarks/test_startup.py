"""The start-up measurement waits for the first 200 and leaves nothing running."""

import shlex
import sys

import pytest

from benchmarks.startup import measure_start

_SERVER = """
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    answers = iter([503, 503, 200])
    def do_GET(self):
        self.send_response(next(Handler.answers)); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_start_ends_with_the_first_200() -> None:
    command = f"{sys.executable} -c {shlex.quote(_SERVER)} {{port}}"
    assert measure_start(command, timeout_s=30) > 0


def test_a_command_that_ends_is_reported() -> None:
    with pytest.raises(RuntimeError, match="status 3"):
        measure_start(f"{sys.executable} -c 'raise SystemExit(3)'", timeout_s=30)
