"""Compiles grammars and tries them out in a process of its own, which they may break.

Run by `server.grammar.check` as

    python -m server.grammar.worker FOLDER VOCAB_SIZE TIMEOUT_S MAX_BYTES

The process loads the tokenizer of the checkpoint in FOLDER, once, and forks a child for the work.
The child can open no file or socket, write no file, leave no core, has MAX_BYTES of memory beyond
what it starts with, and is ended by the kernel when a job has taken TIMEOUT_S of processor time.
Then the next child takes its place, within some 20 ms; a new process would need three seconds for
its imports.

Both directions, in this order:

    worker  {"ready": true}                                  once
    parent  {"structural_tag": text}
    worker  {"code": null, "reason": ""}                     it compiles, and every step is cheap
            {"code": slug, "reason": text}                   what is wrong, for clients to read

The engine compiles the same text with the same compiler, vocabulary and kind of cache.
"""

import json
import mmap
import os
import random
import re
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
import xgrammar as xgr
from transformers import AutoTokenizer

from multimodal.worker_messages import private_stdio, receive, send

_CACHE_BYTES = 128 * 1024**2  # of compiled rules that several grammars share
_MAX_STACK_BYTES = 4 * 1024**2  # half of the engine's
_PAGE_BYTES = resource.getpagesize()
_RECYCLED = 3  # exit status of a child that has grown by half of what it may

# vLLM parses a structural tag in the server's event loop, which all requests wait for.
_MAX_PARSE_S = 0.25
# The engine asks for the allowed tokens of one sequence after the other, in every step.
_MAX_MEAN_S = 0.01  # usual: 0.00002 to 0.001 with 151,936 tokens
_MAX_STEP_S = 0.25
_MIN_STEPS = 25  # before the mean counts
_MAX_GROWING_S = 0.001  # for a mean that has become three times that of the start
_MAX_TIMES = 3
_MAX_GROWTH = 24 * 1024  # bytes of memory per byte of text; usual: 0 to 12 KiB
_FREE_GROWTH = 8 * 1024**2  # what memory grows at once
_RANDOM_STEPS = 256
_REPETITIVE_STEPS = 1024
_LATE_STEPS = 256  # that costs are watched over
_RULES_STEPS = 4096  # of all rules together
_MIN_RULE_STEPS = 128
_MAX_TEXTS = 16  # of one walk; a grammar may allow short ones only
_REPEAT_SHARES = (0.75, 0.995)  # of the steps of a repetitive text: short and long runs

_WARNING = re.compile(rb"Warning: (.*)")
_RULE = re.compile(r"^(\S+) ::= (.*)$", re.MULTILINE)


class Refused(Exception):
    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Vocabulary:
    """The tokens as the engine's compiler sees them.

    Attributes:
        size: with padding, as in the model's logits.
        lengths: of the tokens, in bytes.
        stop_mask: one bit per token that ends an answer, as in xgrammar's masks.
        id_of_byte: the tokens that are one byte.
    """

    def __init__(self, folder: str, size: int) -> None:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.size = size
        self.info = xgr.TokenizerInfo.from_huggingface(tokenizer, vocab_size=size)
        decoded = self.info.decoded_vocab
        self.lengths = [len(token) for token in decoded]
        self.id_of_byte = {token[0]: i for i, token in enumerate(decoded) if len(token) == 1}
        self.stop_mask = self.new_mask()
        for token_id in self.info.stop_token_ids:
            self.stop_mask[token_id // 32] |= np.uint32(1 << token_id % 32)

    def new_mask(self) -> np.ndarray:
        return np.zeros(-(-self.size // 32), np.uint32)


def main() -> None:
    folder, vocab_size, timeout_s, max_bytes = sys.argv[1:]
    commands, answers = private_stdio()
    vocabulary = Vocabulary(folder, int(vocab_size))
    busy = mmap.mmap(-1, 1)  # shared with the child
    send(answers, {"ready": True})
    while True:
        child = os.fork()
        if child == 0:
            _work(
                commands, answers, GrammarTrial(vocabulary), busy, float(timeout_s), int(max_bytes)
            )
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            return  # the parent has closed the pipe
        if busy[0]:
            busy[0] = 0
            send(answers, _describe_death(status, timeout_s, int(max_bytes)))


def _work(
    commands: IO[bytes],
    answers: IO[bytes],
    trial: "GrammarTrial",
    busy: mmap.mmap,
    timeout_s: float,
    max_bytes: int,
) -> None:
    """The child's life; ends when the parent closes the pipe."""
    start = trial.memory.count()
    _confine(trial.memory.count_reserved() + max_bytes)
    while (job := receive(commands)) is not None:
        busy[0] = 1
        signal.setitimer(signal.ITIMER_PROF, timeout_s)  # nobody handles it: it ends the process
        answer = trial.judge(job["structural_tag"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        busy[0] = 0
        send(answers, answer)
        if trial.memory.count() - start > max_bytes // 2:
            os._exit(_RECYCLED)


def _confine(max_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
    resource.setrlimit(resource.RLIMIT_STACK, (_MAX_STACK_BYTES, _MAX_STACK_BYTES))
    for nothing in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(nothing, (0, 0))


def _describe_death(status: int, timeout_s: str, max_bytes: int) -> dict[str, str]:
    reason = f"it needs more than {max_bytes} bytes of memory, or breaks the compiler"
    if status == -signal.SIGPROF:
        reason = f"compiling it and trying it out takes longer than {timeout_s} seconds"
    return {"code": "grammar_too_complex", "reason": reason}


class GrammarTrial:
    """A compiler, and the steps that show what a compiled grammar costs the engine."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._compiler = xgr.GrammarCompiler(
            vocabulary.info, max_threads=1, cache_limit_bytes=_CACHE_BYTES
        )
        self._warnings = _capture_stderr()
        self.memory = _Memory()

    def judge(self, tag: str) -> dict[str, str | None]:
        try:
            self._try(tag)
        except Refused as refused:
            return {"code": refused.code, "reason": str(refused)}
        except (RuntimeError, ValueError, TypeError, MemoryError) as error:  # xgrammar's
            if isinstance(error, MemoryError) or "bad_alloc" in str(error):
                return {"code": "grammar_too_complex", "reason": "it needs too much memory"}
            return {"code": "invalid_grammar", "reason": str(error)}
        return {"code": None, "reason": ""}

    def _try(self, tag: str) -> None:
        self._take_warning()  # of a grammar before that failed
        start = time.process_time()
        xgr.Grammar.from_structural_tag(tag)
        if time.process_time() - start > _MAX_PARSE_S:
            raise _too_complex(f"parsing it takes longer than {_MAX_PARSE_S:g} seconds")
        compiled = self._compiler.compile_structural_tag(tag)
        if warning := self._take_warning():
            raise Refused("unsupported_grammar", warning)
        pool = self._find_pool(tag)
        self._walk(compiled, _RANDOM_STEPS, must_go_on=True)
        self._walk(compiled, _REPETITIVE_STEPS, pool, must_go_on=True)
        for part in _iterate_parts(json.loads(tag)["format"]):
            rules = list(_iterate_alternatives(part))
            num_steps = min(_REPETITIVE_STEPS, max(_RULES_STEPS // len(rules), _MIN_RULE_STEPS))
            for rule in rules:
                self._walk(self._compiler.compile_grammar(rule), num_steps, pool)

    def _walk(
        self,
        compiled: xgr.CompiledGrammar,
        num_steps: int,
        pool: Sequence[int] = (),
        *,
        must_go_on: bool = False,
    ) -> None:
        """Write texts of allowed tokens, as the engine would.

        Args:
            pool: tokens to choose from where one is allowed. If given, the token before is mostly
                repeated: some grammars are slow with runs of one character only.
            must_go_on: whether to refuse a grammar that allows no token at all.
        Raises: Refused.
        """
        draw, cost = random.Random(num_steps), _Cost(self.memory)
        mask = self._vocabulary.new_mask()
        for _ in range(_MAX_TEXTS):
            matcher, token_id = xgr.GrammarMatcher(compiled), -1
            repeat_share = draw.choice(_REPEAT_SHARES) if pool else 0
            while cost.num_steps < num_steps:
                start = time.thread_time()
                matcher.fill_next_token_bitmask(mask.view(np.int32)[None])
                fill_s = time.thread_time() - start
                if must_go_on and not mask.any():
                    raise Refused("invalid_grammar", "it comes to a point where nothing is allowed")
                mask &= ~self._vocabulary.stop_mask
                if not mask.any():
                    break
                if not (draw.random() < repeat_share and _is_allowed(mask, token_id)):
                    token_id = _draw_token(mask, pool, draw)
                start = time.thread_time()
                matcher.accept_token(token_id)
                accept_s = time.thread_time() - start
                cost.add(fill_s + accept_s, self._vocabulary.lengths[token_id])

    def _find_pool(self, tag: str) -> list[int]:
        """The tokens of one byte that occur in the grammar's text."""
        known = self._vocabulary.id_of_byte
        return [known[byte] for byte in sorted(set(tag.encode())) if byte in known]

    def _take_warning(self) -> str:
        """The first of the compiler's warnings since the last call, or nothing."""
        try:
            found = _WARNING.search(os.read(self._warnings, 65536))
        except BlockingIOError:
            return ""
        return found[1].decode(errors="replace") if found else ""


class _Cost:
    """Adds up what steps cost, over some at a time: what grows must not be hidden by its start."""

    def __init__(self, memory: "_Memory") -> None:
        self.num_steps = 0
        self._memory = memory
        self._first_s: float | None = None
        self._mark()

    def add(self, step_s: float, num_bytes: int) -> None:
        """Raises: Refused if this step, the mean of late, or the growth of late is too much."""
        self.num_steps += 1
        self._num_late += 1
        self._late_s += step_s
        self._late_bytes += num_bytes
        finding = "finding the allowed tokens takes longer than"
        if step_s > _MAX_STEP_S:
            raise _too_complex(f"{finding} {_MAX_STEP_S:g} seconds")
        if self._late_s > _MAX_MEAN_S * max(self._num_late, _MIN_STEPS):
            raise _too_complex(f"{finding} {_MAX_MEAN_S:g} seconds on average")
        if self._memory.count() - self._start > _FREE_GROWTH + self._late_bytes * _MAX_GROWTH:
            raise _too_complex("the memory that it needs grows too fast with the text")
        if self._num_late == _LATE_STEPS:
            self._check_growth(self._late_s / self._num_late)
            self._mark()

    def _check_growth(self, mean_s: float) -> None:
        """A text may be a hundred times as long as what is tried here."""
        if self._first_s is None:
            self._first_s = mean_s
        elif mean_s > max(_MAX_GROWING_S, _MAX_TIMES * self._first_s):
            raise _too_complex("the time that a token takes grows with the text")

    def _mark(self) -> None:
        self._start = self._memory.count()
        self._num_late, self._late_s, self._late_bytes = 0, 0.0, 0


class _Memory:
    """What this process uses. Opened while files can be opened."""

    def __init__(self) -> None:
        self._statm = os.open("/proc/self/statm", os.O_RDONLY)

    def count_reserved(self) -> int:
        """Bytes of address space."""
        return self._read(0)

    def count(self) -> int:
        """Bytes in memory."""
        return self._read(1)

    def _read(self, column: int) -> int:
        return int(os.pread(self._statm, 200, 0).split()[column]) * _PAGE_BYTES


def _iterate_parts(node: Any) -> Iterator[dict[str, Any]]:
    """The regexes and EBNF grammars in a format. (Patterns of schemas cost when compiled only.)"""
    if isinstance(node, dict):
        if node.get("type") in ("regex", "grammar"):
            yield node
        elif node.get("type") != "json_schema":
            yield from _iterate_parts(list(node.values()))
    elif isinstance(node, list):
        for child in node:
            yield from _iterate_parts(child)


def _iterate_alternatives(part: dict[str, Any]) -> Iterator[xgr.Grammar]:
    """Each alternative of each rule as a grammar, since a walk may never get to some."""
    text = str(xgr.Grammar.from_structural_tag({"type": "structural_tag", "format": part}))
    for _, body in _RULE.findall(text):
        for alternative in _split_alternatives(body):
            rooted = f"{text}\ntried_alternative ::= {alternative}\n"
            yield xgr.Grammar.from_ebnf(rooted, root_rule_name="tried_alternative")


def _split_alternatives(body: str) -> list[str]:
    """The members of `((...) | (...))` as xgrammar prints rules; others stay whole."""
    depth, start, found = 0, 1, []
    quoted = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|[()|]')
    for match in quoted.finditer(body):
        token = match.group()
        depth += (token == "(") - (token == ")")
        if (token == "|" and depth == 1) or (token == ")" and depth == 0):
            found.append(body[start : match.start()].strip())
            start = match.end()
        if depth == 0:
            break
    return found or [body]


def _too_complex(reason: str) -> Refused:
    return Refused("grammar_too_complex", reason)


def _is_allowed(mask: np.ndarray, token_id: int) -> bool:
    return token_id >= 0 and bool(mask[token_id // 32] >> np.uint32(token_id % 32) & 1)


def _draw_token(mask: np.ndarray, preferred: Sequence[int], draw: random.Random) -> int:
    """A preferred token if one is allowed; otherwise any, rare ones more often than their share."""
    allowed = [token_id for token_id in preferred if _is_allowed(mask, token_id)]
    if allowed:
        return draw.choice(allowed)
    words = np.flatnonzero(mask)
    word = int(words[draw.randrange(len(words))])
    bits = int(mask[word])
    return word * 32 + draw.choice([bit for bit in range(32) if bits >> bit & 1])


def _capture_stderr() -> int:
    """Where warnings can be read from now on; those beyond a pipe's size are lost."""
    reading, writing = os.pipe()
    for pipe in (reading, writing):
        os.set_blocking(pipe, False)
    os.dup2(writing, sys.stderr.fileno())
    return reading


if __name__ == "__main__":
    main()
