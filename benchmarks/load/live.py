"""The view of a run in the terminal, on stderr, while it runs."""

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from benchmarks.load.record import RequestRecord
from benchmarks.load.result import Step

_REFRESHES_PER_S = 2  # each takes the client some milliseconds
_NUM_RECENT = 200  # requests
_RATE_WINDOW_S = 10.0
_MAX_ENDS = 10_000  # requests of that time


class LiveView:
    """Drawn again and again on a terminal, by a thread; elsewhere a line for every step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begin("", 0)

    def _begin(self, label: str, total: int) -> None:
        self._label, self._total = label, total
        self._start_s = time.perf_counter()
        self._num_done = 0
        self._num_sent = 0
        self._errors: Counter[str] = Counter()
        self._recent: deque[RequestRecord] = deque(maxlen=_NUM_RECENT)
        self._ends: deque[tuple[float, int]] = deque(maxlen=_MAX_ENDS)

    @contextmanager
    def shown(self) -> Iterator[None]:
        if not self._console.is_terminal:
            yield
            return
        with Live(
            get_renderable=self._render,
            console=self._console,
            refresh_per_second=_REFRESHES_PER_S,
            transient=True,
        ):
            yield

    def begin(self, label: str, total: int) -> None:
        self._begin(label, total)

    def drawn(self, num_requests: int) -> None:
        self._num_done = num_requests

    def sent(self) -> None:
        self._num_sent += 1

    def done(self, record: RequestRecord) -> None:
        self._num_done += 1
        if record.error is not None:
            self._errors[record.error] += 1
            return
        self._recent.append(record)
        self._ends.append((time.perf_counter(), record.completion_tokens))

    def end(self, step: Step) -> None:
        for target, summary in enumerate(step.summaries):
            name = f" server {target + 1}" if len(step.summaries) > 1 else ""
            ttft = summary.latencies.get("ttft")
            first = f", first token p50 {_ms(ttft.p50)}, p99 {_ms(ttft.p99)}" if ttft else ""
            self._console.print(
                f"{step.load.label}{name}: {summary.throughput.requests:.2f} requests/s, "
                f"{summary.throughput.completion_tokens:.0f} tokens/s{first}, "
                f"{sum(summary.totals.errors.values())} errors",
                highlight=False,
                soft_wrap=True,
            )

    def _render(self) -> RenderableType:
        elapsed_s = time.perf_counter() - self._start_s
        head = Text(f"{self._label}  {self._num_done}/{self._total}  {elapsed_s:.0f} s")
        bar = Table.grid()
        bar.add_row(ProgressBar(max(1, self._total), self._num_done, width=60))
        return Group(head, bar, self._render_numbers()) if self._num_sent else Group(head, bar)

    def _render_numbers(self) -> Table:
        recent = list(self._recent)
        num_requests, num_tokens, window_s = self._rates()
        table = Table.grid(padding=(0, 2))
        table.add_row("in flight", str(self._num_sent - self._num_done))
        table.add_row("requests/s", f"{num_requests / window_s:.2f}")
        table.add_row("tokens/s", f"{num_tokens / window_s:.0f}")
        table.add_row("first token", _percentiles(r.ttft_s for r in recent))
        table.add_row("per token", _percentiles(r.tpot_s for r in recent))
        table.add_row("whole", _percentiles(r.e2e_s for r in recent))
        if self._errors:
            errors = ", ".join(f"{number} {kind}" for kind, number in dict(self._errors).items())
            table.add_row("errors", Text(errors, "red"))
        return table

    def _rates(self) -> tuple[int, int, float]:
        """Requests and tokens answered in the last seconds, and how many seconds these are."""
        now_s = time.perf_counter()
        ends = [end for end in list(self._ends) if end[0] >= now_s - _RATE_WINDOW_S]
        window_s = min(_RATE_WINDOW_S, now_s - self._start_s)
        return len(ends), sum(tokens for _, tokens in ends), window_s


def _percentiles(values: Iterable[float | None]) -> str:
    found = [value for value in values if value is not None]
    if not found:
        return "-"
    p50, p99 = np.percentile(found, (50, 99))
    return f"p50 {_ms(p50)}  p99 {_ms(p99)}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"
