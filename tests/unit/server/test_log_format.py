"""Log lines: what is in them, and what never is."""

import asyncio
import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from multimodal.vllm_plugin import register
from server.log_format import LineFormatter, LogFormat
from server.log_setup import log_lost_exceptions, logging_config
from server.request_log import current_request_id, logged

SECRET = "the quick brown fox"
SCOPE = {"type": "http", "method": "POST", "state": {}}


def make_record(
    message: str = "hello",
    *args: object,
    name: str = "server.serve",
    level: int = logging.INFO,
    error: BaseException | None = None,
    fields: dict[str, Any] | None = None,
) -> logging.LogRecord:
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord(name, level, "/a/b/c/d.py", 7, message, args, exc_info)
    record.fields = fields or {}
    return record


def as_json(record: logging.LogRecord) -> dict[str, Any]:
    line = LineFormatter("json").format(record)
    assert "\n" not in line
    return json.loads(line)


def as_text(record: logging.LogRecord) -> str:
    return LineFormatter("text").format(record)


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


def test_a_json_line_has_time_level_logger_message_and_fields():
    line = as_json(make_record("took %d s", 3, fields={"status": 200, "client": None}))
    time = line.pop("time")
    assert time.endswith("Z") and len(time) == len("2026-01-02T03:04:05.678Z")
    assert line == {
        "level": "INFO",
        "logger": "server.serve",
        "message": "took 3 s",
        "status": 200,
    }


def test_a_text_line_has_its_fields_behind_the_message():
    line = as_text(
        make_record(fields={"status": 200, "route": "/v1/x", "who": "a b=c", "no": None})
    )
    assert line.endswith(' INFO server.serve: hello status=200 route=/v1/x who="a b=c"')


@pytest.mark.parametrize(
    "text", ["a\nb", "a\r\nb", "a\x1b[2Jb", "a\u2028b", "a\x85b", "\ud800", "\0"]
)
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_value_ends_a_line_or_steers_a_terminal(text: str, log_format: LogFormat):
    record = make_record("%s", text, fields={"value": text, "list": [text]})
    line = LineFormatter(log_format).format(record)
    assert line.isprintable() and len(line.splitlines()) == 1


def test_a_line_cannot_be_forged_by_the_value_of_a_field():
    line = as_text(make_record(fields={"client": 'x" status=200 forged="1'}))
    assert line.endswith(r' client="x\" status=200 forged=\"1"')


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_exception_is_told_by_types_and_places_without_its_message(log_format: LogFormat):
    error = raised(RuntimeError(f"bad {SECRET}"), raised(ValueError(SECRET)))
    line = LineFormatter(log_format).format(make_record(error=error, level=logging.ERROR))
    assert SECRET not in line
    assert "RuntimeError from ValueError" in line
    assert line.count("unit/server/test_log_format.py:") == 2 and " raised" in line


def test_the_reason_of_a_failed_start_is_told():
    error = raised(ValueError("the KV cache is too small"))
    assert as_json(make_record("the model cannot be loaded", error=error))["reason"] == str(error)


def test_a_call_with_wrong_arguments_does_not_show_them():
    assert as_json(make_record("%d tokens", SECRET))["message"] == "%d tokens"


def test_lines_of_a_request_have_its_id_in_its_tasks_and_threads_only():
    async def ask() -> tuple[str | None, ...]:
        with logged("req-1", SCOPE):
            task = asyncio.create_task(asyncio.sleep(0, current_request_id()))
            inside = (
                as_json(make_record())["request_id"],
                await task,
                await asyncio.to_thread(current_request_id),
            )
        return (*inside, current_request_id())

    assert asyncio.run(ask()) == ("req-1", "req-1", "req-1", None)


def test_other_libraries_say_nothing_of_a_request():
    record = make_record("GET %s", SECRET, name="httpx", level=logging.WARNING)
    assert SECRET in as_json(record)["message"]
    with logged("req-1", SCOPE):
        line = as_json(record)
    assert SECRET not in str(line)
    assert line["at"] == "b/c/d.py:7"


@pytest.mark.parametrize("name", ["vllm.v1.core.sched.scheduler", "vllm.v1.structured_output.x"])
def test_tokens_that_vllm_complains_about_are_left_out(name: str):
    record = make_record("rejected %s", [11, 12], name=name, level=logging.ERROR)
    assert as_json(record)["message"] == "rejected %s"


def test_only_our_loggers_say_more_at_debug():
    config = logging_config("debug", "text")
    assert config["root"]["level"] == "WARNING"
    assert config["loggers"]["vllm"] == config["loggers"]["uvicorn"] == {"level": "INFO"}
    assert config["loggers"]["server"] == {"level": "DEBUG"}
    assert logging_config("error", "text")["loggers"]["vllm"] == {"level": "ERROR"}


def test_an_engine_that_dies_does_not_dump_its_input(caplog: pytest.LogCaptureFixture):
    from vllm.logging_utils import dump_input

    register()
    with caplog.at_level(logging.DEBUG):
        dump_input.dump_engine_exception(SECRET, SECRET, SECRET)
    assert SECRET not in caplog.text


async def test_lost_exceptions_of_tasks_are_told_without_their_message(
    caplog: pytest.LogCaptureFixture,
):
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    log_lost_exceptions(loop)
    try:
        loop.call_exception_handler(
            {"message": "m", "exception": ValueError(SECRET), "task": SECRET}
        )
    finally:
        loop.set_exception_handler(before)
    line = as_json(caplog.records[0])
    assert line["error"] == "ValueError"
    assert SECRET not in str(line)


# What Python itself writes to stderr; each in a process, as it changes all of it.
_UNCAUGHT = f"""
import gc, multiprocessing, threading, warnings
from server.log_setup import set_up_logging
set_up_logging("debug", "json")
def fail():
    raise ValueError("{SECRET}")
class Finalized:
    def __del__(self):
        fail()
if __name__ == "__main__":
    warnings.warn("{SECRET}")
    thread = threading.Thread(target=fail); thread.start(); thread.join()
    Finalized(); gc.collect()
    process = multiprocessing.get_context("fork").Process(target=fail, name="child")
    process.start(); process.join()
"""


def test_what_python_writes_of_exceptions_goes_through_the_log():
    done = subprocess.run(
        [sys.executable, "-c", _UNCAUGHT], capture_output=True, text=True, check=True
    )
    *lines, before_last, last = done.stderr.splitlines()
    assert SECRET not in done.stdout + done.stderr
    assert before_last == "Process child:"  # of `multiprocessing`
    messages = [json.loads(line)["message"] for line in (*lines, last)]
    assert messages == [
        "a library warns",
        "a thread has ended by an exception",
        "an exception in a finalizer",
        "ended by an exception",
    ]
