"""The report: one file with every number, which no server can put its own markup into."""

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from benchmarks.load.arrivals import ClosedLoop, OpenLoop
from benchmarks.load.measure import measures, shown, shown_ratios
from benchmarks.load.report import render_report
from benchmarks.load.result import Highest
from tests.load_results import SLO, make_run

_HOSTILE = (
    "</td></svg><script>alert(1)</script><img src=x onerror=alert(2)>&\"'\x1b[31m\u202e\ud800"
)


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def two_servers() -> str:
    result, records = make_run(
        targets=["server", "vs"], loads=[ClosedLoop(1), OpenLoop(4)], failures=2
    )
    return render_report(result, records)


def test_every_number_is_in_the_report() -> None:
    result, records = make_run(targets=["server", "vs"], loads=[ClosedLoop(1)], failures=2)
    texts = set(_Page(render_report(result, records)).texts)
    (step,) = result.steps
    numbers = {shown(measure) for summary in step.summaries for measure in measures(summary)}
    assert len(numbers) > 20
    assert numbers <= texts
    ratios = set(shown_ratios(step.ratios).values())
    assert ratios and ratios <= texts


def test_numbers_of_all_loads_are_in_the_report() -> None:
    result, records = make_run(loads=[ClosedLoop(1), OpenLoop(4), OpenLoop(8)])
    texts = set(_Page(render_report(result, records)).texts)
    for step in result.steps:
        assert {shown(measure) for measure in measures(step.summaries[0])} <= texts


def test_who_was_asked_and_how_to_repeat_it_is_in_the_report(two_servers: str) -> None:
    texts = "\n".join(_Page(two_servers).texts)
    for text in (
        "Qwen/Qwen3-VL-2B",
        "http://127.0.0.1:8001",
        "qwen3vl-serve --port 8001",
        "12.3 s",
        "3.00 GiB",
        "5.00 GiB",
        "Some CPU",
        "qwen3vl-serve bench \\\n  --base-url http://127.0.0.1:8000 \\\n  --workload images",
    ):
        assert text in texts


def test_warnings_come_before_numbers() -> None:
    result, records = make_run()
    text = render_report(replace(result, warnings=["the client was the limit"]), records)
    assert text.index("the client was the limit") < text.index("<table>")


def test_an_error_has_its_count_and_an_example() -> None:
    result, records = make_run(failures=3, message="out of memory")
    texts = _Page(render_report(result, records)).texts
    at = texts.index("http_5xx")
    assert "out of memory" in texts[at:] and "3" in texts[at:]


def test_the_highest_rates_are_in_the_report() -> None:
    result, records = make_run(targets=["server", "vs"])
    found = [Highest(0, SLO, 7.25), Highest(1, SLO, None)]
    texts = _Page(render_report(replace(result, highest=found), records)).texts
    assert "7.25 requests/s" in texts and "none" in texts


def test_nothing_that_a_server_says_becomes_markup() -> None:
    result, records = make_run(failures=1, message=_HOSTILE)
    target = replace(
        result.targets[0],
        name=_HOSTILE,
        base_url=_HOSTILE,
        model=_HOSTILE,
        version={_HOSTILE: {_HOSTILE: _HOSTILE}},
        command=_HOSTILE,
    )
    hostile = replace(
        result,
        targets=[target],
        workload=_HOSTILE,
        options={_HOSTILE: _HOSTILE},
        machine={_HOSTILE: _HOSTILE},
        arguments=[_HOSTILE],
        warnings=[_HOSTILE],
        profiles=[_HOSTILE],
    )
    text = render_report(hostile, records)
    text.encode()
    assert not set(text) & set("\x1b\u202e")
    assert _Page(text).tags.keys() == _Page(render_report(result, records)).tags.keys() | {
        "div",
        "strong",
        "ul",
        "li",
    }
    assert not {name for name, _ in _Page(text).attributes if name.startswith("on")}


def test_nothing_is_loaded_from_elsewhere(two_servers: str) -> None:
    parsed = _Page(two_servers)
    assert not parsed.tags.keys() & {"script", "link", "img", "iframe", "base", "object", "embed"}
    for name, value in parsed.attributes:
        if name in ("href", "xlink:href", "src", "srcset", "action", "poster"):
            assert value.startswith("#")
    assert set(re.findall(r"url\((.)", two_servers)) == {"#"}
    assert "@import" not in two_servers
    assert "default-src 'none'" in two_servers


def test_drawings_are_valid_and_no_id_is_there_twice(two_servers: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", two_servers, re.DOTALL)
    # four distributions, the timeline, throughput against latency, cache hits
    assert len(drawings) == 7
    ids: Counter[str] = Counter()
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        own = {element.attrib["id"] for element in root.iter() if "id" in element.attrib}
        used = set(re.findall(r'url\(#([^)]*)\)|xlink:href="#([^"]*)"', drawing))
        assert {first or second for first, second in used} == own
        assert root.attrib["aria-label"] and root.attrib["viewBox"]
        ids.update(own)
    assert ids and set(ids.values()) == {1}


def test_the_same_run_gives_the_same_report() -> None:
    assert render_report(*make_run()) == render_report(*make_run())


def test_one_load_of_a_server_without_metrics_has_fewer_drawings() -> None:
    result, records = make_run()
    step = result.steps[0]
    without = replace(step, summaries=[replace(step.summaries[0], caches={})])
    assert render_report(replace(result, steps=[without]), records).count("<svg") == 5


def test_a_run_without_an_answer_has_a_report() -> None:
    result, records = make_run(targets=["server", "vs"], num_blocks=1, failures=20)
    text = render_report(result, records)
    assert text.count("<svg") == 2
    assert "20" in _Page(text).texts


def test_chunks_that_come_at_once_leave_the_rest_of_the_latencies_readable() -> None:
    result, records = make_run()
    at_once = [replace(record, gaps_s=(0.0, *record.gaps_s)) for record in records]
    (drawing,) = [
        found
        for found in re.findall(r"<svg.*?</svg>", render_report(result, at_once), re.DOTALL)
        if "Inter-token" in found
    ]
    assert ">10 ms<" in drawing and ">1 ms<" in drawing and ">0.01 ms<" not in drawing


def test_a_report_can_be_made_without_records() -> None:
    result, _ = make_run(failures=1)
    texts = _Page(render_report(result, [])).texts
    assert "http_5xx" in texts and "server says no" not in texts


def test_many_requests_make_no_large_file() -> None:
    result, records = make_run(
        targets=["server", "vs"], loads=[ClosedLoop(1), ClosedLoop(8)], num_requests=4000
    )
    assert len(render_report(result, records)) < 1_000_000
