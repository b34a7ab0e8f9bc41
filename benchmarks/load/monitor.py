"""What happens in a run, as it happens: kept, written as JSON lines, and shown."""

from typing import BinaryIO

import orjson

from benchmarks.load.live import LiveView
from benchmarks.load.record import RequestRecord
from benchmarks.load.result import Step


class Monitor:
    """Told by the parts of a run.

    Args:
        file: gets one JSON object a line for each request that counts.

    Attributes:
        view: in the terminal.
        records: of all requests that count.
    """

    def __init__(self, file: BinaryIO, view: LiveView) -> None:
        self._file = file
        self.view = view
        self.records: list[RequestRecord] = []

    def begin(self, label: str, total: int) -> None:
        """Something of `total` requests begins."""
        self.view.begin(label, total)

    def drawn(self, num_requests: int) -> None:
        self.view.drawn(num_requests)

    def sent(self) -> None:
        self.view.sent()

    def done(self, record: RequestRecord) -> None:
        self.view.done(record)
        if record.step >= 0:
            self.records.append(record)
            self._file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))

    def end(self, step: Step) -> None:
        self._file.flush()
        self.view.end(step)
