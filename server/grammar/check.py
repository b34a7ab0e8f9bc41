"""Whether the engine can bear a grammar, found out where it does no harm.

The engine compiles grammars in its own process, without limits of time and memory, and asks for the
allowed tokens of each sequence in every step. So a grammar comes here first: a confined process
(`server.grammar.worker`) compiles it and tries it out, one at a time. Clients take turns.
"""

import asyncio
import json
import os
import re
import signal
import sys
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3
from huggingface_hub import snapshot_download

from multimodal.worker_messages import LENGTH_BYTES, encode_message
from server.errors import InvalidRequest, Overloaded
from server.fair_shares import FairShares
from server.grammar.output_grammar import OutputGrammar
from server.turns import Turns

MAX_WAITING = 64
MAX_VERDICTS = 4096

_CODES = ("invalid_grammar", "unsupported_grammar", "grammar_too_complex")
_START_TIMEOUT_S = 120.0
_END_TIMEOUT_S = 2.0  # it has nothing to do but to notice
_MAX_ANSWER_BYTES = 64 * 1024
_MAX_REASON_CHARS = 200
_Key = tuple[str, bytes]  # a client, the digest of its grammar
# The worker's limit is processor time. Where processors are busy, that takes longer.
_WALL_CLOCK_FACTOR = 10
# Where in its sources the compiler has found a fault: `[08:45:10] /project/cpp/x.cc:83: `.
_SOURCE_PLACE = re.compile(r"\[[\d:]+\] \S+:\d+: |Check failed: .*? is false: ")


@dataclass(frozen=True, slots=True)
class Verdict:
    """`code` is None for a grammar that may go to the engine."""

    code: str | None
    reason: str


class GrammarChecker:
    """Checks grammars with the tokenizer of one checkpoint. To be used from one event loop.

    Args:
        model: a local folder or the name of a Hugging Face repository that is in the local cache.
        vocab_size: of the model's logits, with padding.
        timeout_s: of processor time for one grammar.
        max_bytes: memory for one grammar, beyond that of the worker's libraries and vocabulary.
    """

    def __init__(
        self,
        model: str,
        revision: str | None,
        vocab_size: int,
        *,
        timeout_s: float,
        max_bytes: int,
    ) -> None:
        self._worker_options = (model, revision, vocab_size, timeout_s, max_bytes)
        self._worker: _Worker | None = None
        self._turns = Turns(1)
        self._places = FairShares(MAX_WAITING, least=1)
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()
        self._checks: dict[_Key, _Check] = {}

    async def check(self, grammar: OutputGrammar, client_id: str = "") -> None:
        """Return if the grammar may go to the engine.

        The first check starts the worker, which takes seconds. A client that asks for a grammar
        several times at once shares one check; verdicts are remembered for all.

        Raises: InvalidRequest; Overloaded if too many grammars wait; RuntimeError if no worker can
            be started.
        """
        digest = blake3(grammar.structural_tag.encode()).digest()
        verdict = self._verdicts.get(digest)
        if verdict is None:
            verdict = await self._share_check((client_id, digest), grammar.structural_tag)
        else:
            self._verdicts.move_to_end(digest)
        if verdict.code is not None:
            refusal = "is too complex" if verdict.code == "grammar_too_complex" else "is refused"
            message = f"`{grammar.param}` {refusal}: {verdict.reason}"
            raise InvalidRequest(message, verdict.code, grammar.param)

    async def close(self) -> None:
        """End the worker; checks under way are cancelled."""
        checks = [check.task for check in self._checks.values()]
        for task in checks:
            task.cancel()
        await asyncio.gather(*checks, return_exceptions=True)
        await self._end_worker()

    async def _share_check(self, key: _Key, tag: str) -> Verdict:
        check = self._checks.get(key)
        if check is None:
            if not self._places.take(key[0]):
                raise Overloaded("too many grammars are waiting to be checked", "overloaded")
            check = self._checks[key] = _Check(asyncio.create_task(self._judge(key, tag)))
        check.num_waiting += 1
        try:
            return await asyncio.shield(check.task)
        finally:
            check.num_waiting -= 1
            if check.num_waiting == 0 and not check.has_begun and not check.task.done():
                check.task.cancel()
                self._forget(key, check.task)

    async def _judge(self, key: _Key, tag: str) -> Verdict:
        client_id, digest = key
        try:
            async with self._turns.turn(client_id):
                known = self._verdicts.get(digest)  # another client has asked meanwhile
                if known is not None:
                    return known
                self._checks[key].has_begun = True
                verdict = await self._ask_worker(tag)
        except WorkerDied:  # perhaps of something else, so this is not remembered
            return Verdict("grammar_too_complex", "the process that tries it out has ended")
        finally:
            self._forget(key, asyncio.current_task())
        self._verdicts[digest] = verdict
        if len(self._verdicts) > MAX_VERDICTS:
            self._verdicts.popitem(last=False)
        return verdict

    def _forget(self, key: _Key, task: asyncio.Task[Any] | None) -> None:
        check = self._checks.get(key)
        if check is not None and check.task is task:
            del self._checks[key]
            self._places.give_back(key[0])

    async def _ask_worker(self, tag: str) -> Verdict:
        if self._worker is not None and self._worker.has_ended:  # killed while it was idle
            await self._end_worker()
        if self._worker is None:
            self._worker = await self._start_worker()
        try:
            return await self._worker.judge(tag)
        except BaseException:  # what it says next would be about this grammar
            await self._end_worker()
            raise

    async def _start_worker(self) -> "_Worker":
        """Raises: RuntimeError."""
        try:
            return await _Worker.start(*self._worker_options)
        except RuntimeError:  # perhaps it was killed while it started
            return await _Worker.start(*self._worker_options)

    async def _end_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.end()


@dataclass(slots=True)
class _Check:
    """A grammar on its way to a verdict, and how many ask for it."""

    task: asyncio.Task[Verdict]
    num_waiting: int = 0
    has_begun: bool = False


class WorkerDied(Exception):
    """The process has ended, hangs, or says what it cannot say."""


class _Worker:
    """One process of `server.grammar.worker`."""

    def __init__(self, process: asyncio.subprocess.Process, timeout_s: float) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process, self._timeout_s = process, timeout_s
        self._commands, self._answers = process.stdin, process.stdout

    @classmethod
    async def start(
        cls, model: str, revision: str | None, vocab_size: int, timeout_s: float, max_bytes: int
    ) -> "_Worker":
        """Raises: RuntimeError."""
        folder = await asyncio.to_thread(_find_folder, model, revision)
        options = (str(folder), str(vocab_size), f"{timeout_s:g}", str(max_bytes))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "server.grammar.worker", *options),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd="/",
            env={
                "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
                "PATH": os.defpath,
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",  # it is forked, and does no sums
                "OPENBLAS_NUM_THREADS": "1",
            },
            start_new_session=True,  # the terminal's interrupt is the server's to handle
        )
        worker = cls(process, timeout_s)
        try:
            await worker._receive(_START_TIMEOUT_S)
        except WorkerDied:
            await worker.end()
            raise RuntimeError("the grammar worker process does not start") from None
        except BaseException:
            await worker.end()
            raise
        return worker

    @property
    def has_ended(self) -> bool:
        return self._process.returncode is not None or self._answers.at_eof()

    async def judge(self, tag: str) -> Verdict:
        """Raises: WorkerDied; then it must be ended."""
        self._commands.write(encode_message({"structural_tag": tag}))
        answer = await self._receive(self._timeout_s * _WALL_CLOCK_FACTOR)
        code, reason = answer.get("code"), answer.get("reason")
        if not (code is None or code in _CODES) or not isinstance(reason, str):
            raise WorkerDied
        return Verdict(code, _tidy(reason))

    async def end(self) -> None:
        """End the process and reap it. It reaps its child itself, unless that hangs."""
        self._commands.close()
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    async def _receive(self, timeout_s: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(timeout_s):
                length = int.from_bytes(await self._answers.readexactly(LENGTH_BYTES), "big")
                if length > _MAX_ANSWER_BYTES:
                    raise WorkerDied
                answer = json.loads(await self._answers.readexactly(length))
        except (TimeoutError, OSError, EOFError, ValueError):
            raise WorkerDied from None
        if not isinstance(answer, dict):
            raise WorkerDied
        return answer


def _find_folder(model: str, revision: str | None) -> Path:
    """The checkpoint's files. The server has loaded its tokenizer, so they are on this machine."""
    if Path(model).is_dir():
        return Path(model).resolve()
    return Path(snapshot_download(model, revision=revision, local_files_only=True))


def _tidy(reason: str) -> str:
    """A compiler's message as clients may read it: one short line, without its places in C++."""
    line = _SOURCE_PLACE.sub("", reason).strip().partition("\n")[0][:_MAX_REASON_CHARS]
    text = "".join(character if character.isprintable() else "?" for character in line)
    return text or "the compiler fails"
