"""The report of the load test in a real browser, on a phone's width."""

import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.load.arrivals import ClosedLoop, OpenLoop
from benchmarks.load.report import render_report
from tests.e2e.ui_browser import BROWSER, FLAGS
from tests.load_results import make_run

_WIDTH = 360
_LEAST_TEXT_HEIGHT = 9
# The window of a headless browser is at least 500 pixels wide, a frame is as wide as it is told.
_OUTER = """<!doctype html><iframe id="page" width="{width}" height="800" style="border:0"
srcdoc="{page}"></iframe><pre id="found"></pre><script>
onload = () => {{
  const inner = document.getElementById("page").contentDocument;
  const sizes = [...inner.querySelectorAll("svg text")].map((text) => {{
    const scale = text.getScreenCTM();
    return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(scale.a, scale.b);
  }});
  const root = inner.documentElement;
  document.getElementById("found").textContent =
    `wide ${{root.scrollWidth}} of ${{root.clientWidth}}, text ${{Math.min(...sizes)}}`;
}};
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium")
def test_the_report_fits_a_phone(tmp_path: Path) -> None:
    assert BROWSER is not None
    result, records = make_run(
        targets=["server", "vs"],
        loads=[ClosedLoop(1), ClosedLoop(8), OpenLoop(16), OpenLoop(32)],
        failures=2,
        message="x" * 500,
    )
    report = render_report(result, records).replace("&", "&amp;").replace('"', "&quot;")
    page = tmp_path / "outer.html"
    page.write_text(_OUTER.format(width=_WIDTH, page=report), encoding="utf-8")
    command = [
        BROWSER,
        *FLAGS,
        "--dump-dom",
        f"--user-data-dir={tmp_path / 'profile'}",
        page.as_uri(),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="found">wide (\d+) of (\d+), text ([\d.]+)</pre>', shown)
    assert found is not None
    assert int(found[2]) in range(_WIDTH - 20, _WIDTH + 1)
    assert int(found[1]) <= int(found[2])
    assert float(found[3]) >= _LEAST_TEXT_HEIGHT
