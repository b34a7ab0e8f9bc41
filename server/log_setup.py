"""What every process of the server does with its log: one handler, one format, on stderr.

vLLM's processes that are not forked from the server's read it from a file, as `dictConfig` has it.
"""

import asyncio
import logging
import logging.config
import sys
import threading
import traceback
import warnings
from typing import Any

from server.log_format import (
    OUR_LOGGERS,
    LineFormatter,
    LogFormat,
    describe_exception,
    place,
)

logger = logging.getLogger(__name__)

_WRITER = "stderr"
_OWN_HANDLERS = ("torch", "transformers", "huggingface_hub")  # which would write beside ours
_print_exc = traceback.print_exc
CLEAR_LINE = "\r\x1b[2K"  # of a terminal


class LogHandler(logging.StreamHandler[Any]):
    """Takes over, too, what Python itself writes to stderr: warnings and uncaught exceptions."""

    def __init__(self, log_format: LogFormat) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(LineFormatter(log_format))
        self._start = CLEAR_LINE if is_read_live(log_format) else ""  # of what is left of a bar
        _take_over_stderr()

    def format(self, record: logging.LogRecord) -> str:
        return self._start + super().format(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """What cannot be written is lost: `logging` would write the record's arguments."""


def is_read_live(log_format: LogFormat) -> bool:
    """Whether people read the log as it is written, on a terminal."""
    return log_format == "text" and sys.stderr.isatty()


def logging_config(level: str, log_format: LogFormat) -> dict[str, Any]:
    """Of `logging.config.dictConfig`, as JSON can hold it.

    At debug only this project's own code says more: what libraries write there, headers, URLs and
    values of tags among it, is for those who debug libraries.
    """
    own, quiet = level.upper(), _at_least(level, "WARNING")
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {_WRITER: {"()": f"{__name__}.LogHandler", "log_format": log_format}},
        "root": {"level": quiet, "handlers": [_WRITER]},
        "loggers": {
            **{name: {"level": own} for name in OUR_LOGGERS},
            **{name: {"level": _at_least(level, "INFO")} for name in ("uvicorn", "vllm")},
            **{name: {"level": quiet, "handlers": [], "propagate": True} for name in _OWN_HANDLERS},
        },
    }


def set_up_logging(level: str, log_format: LogFormat) -> None:
    """Of this process, and of those forked from it."""
    logging.config.dictConfig(logging_config(level, log_format))


def log_lost_exceptions(loop: asyncio.AbstractEventLoop) -> None:
    """Those of tasks that nobody awaits, without the objects that asyncio would describe."""
    loop.set_exception_handler(_log_lost)


def _log_lost(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    message, error = context.get("message", "an exception"), context.get("exception")
    logger.error("lost: %s", message, exc_info=error)


def _at_least(level: str, floor: str) -> str:
    levels = logging.getLevelNamesMapping()
    return max(level.upper(), floor, key=levels.__getitem__)


def _take_over_stderr() -> None:
    warnings.showwarning = _log_warning
    threading.excepthook = _log_in_thread
    traceback.print_exc = _log_current  # what `multiprocessing` does at the end of a process
    sys.unraisablehook = _log_unraisable


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """Without its text, which may quote a file's content."""
    fields = {"category": category.__name__, "at": place(filename, lineno)}
    logger.warning("a library warns", extra={"fields": fields})


def _log_in_thread(caught: threading.ExceptHookArgs) -> None:
    if caught.exc_type is not SystemExit:
        logger.error("a thread has ended by an exception", extra=_fields_of(caught.exc_value))


def _log_unraisable(caught: Any) -> None:
    logger.error("an exception in a finalizer", extra=_fields_of(caught.exc_value))


def _log_current(limit: int | None = None, file: Any = None, chain: bool = True) -> None:
    if file is None:
        logger.critical("ended by an exception", extra=_fields_of(sys.exc_info()[1]))
    else:
        _print_exc(limit, file, chain)


def _fields_of(error: BaseException | None) -> dict[str, Any]:
    return {"fields": {} if error is None else describe_exception(error)}
