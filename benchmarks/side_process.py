"""One side of a benchmark as a process that is asked over its standard streams."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from benchmarks.preparation import ANSWER_MARK
from benchmarks.servers import log_tail

_VARIABLES = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


class SideProcess:
    """Reads a question a line, and answers with a line that starts with `ANSWER_MARK`; JSON."""

    def __init__(self, process: subprocess.Popen[str], log: IO[bytes]) -> None:
        self._process = process
        self._log = log

    def ask(self, question: Any) -> Any:
        """Raises: RuntimeError with the end of the log if the process has ended."""
        assert self._process.stdin and self._process.stdout
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise RuntimeError(log_tail(self._log)) from None
        for line in self._process.stdout:
            if line.startswith(ANSWER_MARK):
                return json.loads(line.removeprefix(ANSWER_MARK))
        raise RuntimeError(log_tail(self._log))


@contextmanager
def side_process(python: Path, module: str, *arguments: str) -> Iterator[SideProcess]:
    """`python -m module`; it ends when its standard input does."""
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [str(python), "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | _VARIABLES,
        ) as process,
    ):
        yield SideProcess(process, log)
