"""A log record as one line of text or JSON, without anything that a client has sent.

Messages of exceptions are left out: they may quote a prompt. So is the text of other libraries
while a request is handled, and what vLLM's scheduler says of tokens. Where it happened is told.
"""

import json
import logging
import re
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from server.request_log import current_request_id

LogFormat = Literal["text", "json"]
OUR_LOGGERS = ("server", "multimodal", "model_executor", "demo")
# These write about themselves; every other library may write about its input.
TRUSTED_LOGGERS = (*OUR_LOGGERS, "uvicorn", "vllm")
# Parts of vLLM that name tokens in their messages' arguments.
_TOKEN_LOGGERS = ("vllm.v1.core", "vllm.v1.structured_output", "vllm.v1.engine.detokenizer")
# Exceptions that know of no request, and whose messages are what an operator needs.
_EXPLAINED = frozenset(
    {
        "the model cannot be loaded",
        "EngineCore failed to start.",
        "WorkerProc failed to start.",
        "adapter %s cannot be loaded",
    }
)
_MAX_FRAMES = 40
_MAX_CAUSES = 8
_WITHHELD = "(the text of another library is not written while a request is handled)"
_MAIN_PROCESS = "MainProcess"
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")  # printable, and no space, quote, `=` or backslash


class LineFormatter(logging.Formatter):
    """`extra={"fields": {...}}` is what a record has of its own; None is left out."""

    def __init__(self, log_format: LogFormat) -> None:
        super().__init__()
        self._render = _render_json if log_format == "json" else _render_text

    def format(self, record: logging.LogRecord) -> str:
        return self._render(_values(record))


def is_of(name: str, loggers: tuple[str, ...]) -> bool:
    """Whether a logger is one of these or below one."""
    return any(name == logger or name.startswith(f"{logger}.") for logger in loggers)


def describe_exception(error: BaseException) -> dict[str, Any]:
    """`error`: its type and those of its causes; `trace`: where, the first cause first."""
    chain = list(_causes(error))
    calls = [call for cause in reversed(chain) for call in traceback.walk_tb(cause.__traceback__)]
    return {
        "error": " from ".join(map(_type_name, chain)),
        "trace": [
            f"{place(frame.f_code.co_filename, line)} {frame.f_code.co_name}"
            for frame, line in calls[:_MAX_FRAMES]
        ],
    }


def place(filename: str, line: int) -> str:
    return f"{_short_path(filename)}:{line}"


def _values(record: logging.LogRecord) -> dict[str, Any]:
    values = {
        "time": _timestamp(record.created),
        "level": record.levelname,
        "logger": record.name,
        "message": _message(record),
        "request_id": current_request_id(),
        "process": None if record.processName == _MAIN_PROCESS else record.processName,
        **getattr(record, "fields", {}),
    }
    if record.levelno >= logging.WARNING and not is_of(record.name, OUR_LOGGERS):
        values["at"] = place(record.pathname, record.lineno)
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        if record.msg in _EXPLAINED:
            values["reason"] = str(error)  # before the trace, which is long
        values |= describe_exception(error)
    return {name: value for name, value in values.items() if value is not None}


def _message(record: logging.LogRecord) -> str:
    if is_of(record.name, _TOKEN_LOGGERS) and record.levelno >= logging.WARNING:
        return str(record.msg)  # with its placeholders
    if current_request_id() is not None and not is_of(record.name, TRUSTED_LOGGERS):
        return _WITHHELD
    try:
        return record.getMessage()
    except Exception:  # `logging` would write the arguments of such a call to stderr
        return str(record.msg)


def _timestamp(created: float) -> str:
    moment = datetime.fromtimestamp(created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it came from, as a traceback would show them."""
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _type_name(error: BaseException) -> str:
    kind = type(error)
    is_builtin = kind.__module__ == "builtins"
    return kind.__qualname__ if is_builtin else f"{kind.__module__}.{kind.__qualname__}"


def _short_path(path: str) -> str:
    """The last parts of it: which file, not where it is installed."""
    return "/".join(Path(path).parts[-3:])


def _render_json(values: dict[str, Any]) -> str:
    return json.dumps(values, default=str)  # escapes all that is not ASCII, line ends included


def _render_text(values: dict[str, Any]) -> str:
    head = f"{values.pop('time')} {values.pop('level')} {values.pop('logger')}: "
    message = _printable(values.pop("message"))
    return " ".join([head + message, *(f"{n}={_text_value(v)}" for n, v in values.items())])


def _text_value(value: object) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json.dumps(value, default=str)


def _printable(message: str) -> str:
    """Nothing may end a line, or steer a terminal, in the name of a message."""
    if message.isprintable():
        return message
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
