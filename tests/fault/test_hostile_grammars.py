"""Schemas, regexes and grammars that would stall, fill or kill the engine; the worker is real.

Each is refused before it gets there, or shown to be cheap; and the checker goes on.
"""

import asyncio
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from demo.embedded import EMBEDDED_CHECKPOINT
from server.errors import InvalidRequest
from server.grammar import output_grammar
from server.grammar.check import GrammarChecker
from server.grammar.output_grammar import OutputGrammar

pytestmark = [pytest.mark.alone, pytest.mark.asyncio(loop_scope="module")]

VOCAB_SIZE = 896
TIMEOUT_S = 3.0
MAX_BYTES = 512 * 1024**2
HANG_S = 90
PARAM = "structured_outputs"

_numbers = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def checker() -> AsyncIterator[GrammarChecker]:
    checker = make_checker()
    yield checker
    await checker.close()


def make_checker(**options: Any) -> GrammarChecker:
    model = str(options.pop("model", EMBEDDED_CHECKPOINT))
    limits = {"timeout_s": TIMEOUT_S, "max_bytes": MAX_BYTES} | options
    return GrammarChecker(model, None, VOCAB_SIZE, **limits)


def healthy() -> OutputGrammar:
    """One that has not been checked before."""
    return output_grammar.choice([f"yes {next(_numbers)}", "no"], PARAM)


async def verdict(checker: GrammarChecker, make: Callable[[], OutputGrammar]) -> str | None:
    """The code of a refusal, also by the static limits; None if the engine may have it."""
    try:
        async with asyncio.timeout(HANG_S):
            await checker.check(make())
    except InvalidRequest as error:
        assert error.param == PARAM
        assert error.message.startswith(f"`{PARAM}`")
        assert len(error.message) < 400
        assert "/project" not in error.message
        return error.code
    return None


def regex(pattern: str) -> Callable[[], OutputGrammar]:
    return lambda: output_grammar.regex(pattern, PARAM)


def pattern(pattern: str) -> Callable[[], OutputGrammar]:
    return schema({"type": "string", "pattern": pattern})


def ebnf(*rules: str) -> Callable[[], OutputGrammar]:
    return lambda: output_grammar.ebnf("\n".join(rules), PARAM)


def schema(schema: Any) -> Callable[[], OutputGrammar]:
    return lambda: output_grammar.json_schema(schema, PARAM)


def unchecked(format: dict[str, Any]) -> Callable[[], OutputGrammar]:
    """Past the limits of `output_grammar`: what the worker would do with it."""
    text = json.dumps({"type": "structural_tag", "format": format})
    return lambda: OutputGrammar(text, PARAM)


def chain(count: int, rule: str, last: str) -> Callable[[], OutputGrammar]:
    rules = [f"r{n} ::= " + rule.replace("NEXT", f"r{n + 1}") for n in range(count)]
    return ebnf("root ::= r0", *rules, f"r{count} ::= {last}")


def nested(levels: int, inside: Any = None) -> dict[str, Any]:
    found: dict[str, Any] = inside or {"type": "string"}
    for _ in range(levels):
        found = {"type": "array", "items": found}
    return found


def optional(count: int, **more: Any) -> dict[str, Any]:
    properties = {f"property{number}": {"type": "string"} for number in range(count)}
    return {"type": "object", "properties": properties, **more}


TOO_COMPLEX = {
    # Compiling never ends, or takes all memory.
    "many optional characters": regex(".?" * 300),
    "many optional characters in a string": pattern(".?" * 300),
    "repetitions in each other in a string": pattern("(.{0,60}){0,60}"),
    "hundreds of optional properties": unchecked(
        {"type": "json_schema", "json_schema": optional(2000)}
    ),
    "a schema of 600 levels": unchecked({"type": "json_schema", "json_schema": nested(600)}),
    # Compiling is quick, but each token takes seconds.
    "repetitions in each other": regex("(.{0,30}){0,30}"),
    "three repetitions in each other": ebnf('root ::= (("a"{1,1000}){1,1000}){1,1000}'),
    "(a*)*b": regex("(a*)*b"),
    "(x+x+)+y": regex("(x+x+)+y"),
    "stars in each other": regex("(((a*)*)*)*"),
    "a nullable star of a star": ebnf('root ::= (("a"?)*)*'),
    "a nullable loop": ebnf("root ::= (a)*", "a ::= b*", 'b ::= "" | "x"'),
    "a sum without brackets": ebnf('root ::= root root | "a"'),
    "a sum of threes": ebnf('root ::= root root root | root root | "a" | ""'),
    "doubling, nullable": chain(30, "NEXT NEXT", '"a" | ""'),
    "four texts in a row": ebnf("root ::= a a a a", "a ::= [^\\n]*"),
    "rows of two texts": ebnf("root ::= (a a)+", "a ::= [^\\n]+"),
    # Each token takes more memory than the one before.
    "a repetition of something nullable": ebnf("root ::= a{0,1000}", 'a ::= "x"*'),
    "fifteen pairs of stars": regex("(.*a.*){15}"),
    # The same where a random text does not come by.
    "hidden behind a word": regex("magic(.{0,30}){0,30}|.*"),
    "hidden behind a word in a rule": ebnf('root ::= [^\\n]* | "magic" x x x x', "x ::= [^\\n]*"),
    "hidden behind digits": ebnf("root ::= [^\\n]* | [0-9]{8} y", 'y ::= y y | "a"'),
}

INVALID = {
    # Nothing can be written: the engine would mask every token.
    "schema false": schema(False),
    "a reference to itself": schema({"$ref": "#"}),
    "references in a circle": schema(
        {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        }
    ),
    "an empty class": regex(r"[^\s\S]"),
    "an empty class later on": regex(r"a{3}[^\s\S]"),
    "an empty class in a string": pattern(r"[^\s\S]"),
    "a rule that never ends": ebnf('root ::= root "a"'),
    "a rule that is itself": ebnf("root ::= root"),
    "bounds the wrong way round": schema({"type": "integer", "minimum": 2, "maximum": 1}),
    # Malformed.
    "an open bracket": regex("(" * 1000),
    "a class the wrong way round": regex("[b-a]"),
    "a repetition the wrong way round": regex("a{5,2}"),
    "an unknown rule": ebnf("root ::= b"),
    "no root": ebnf('start ::= "a"'),
    "an open quote": ebnf('root ::= "a'),
    "two thousand brackets": ebnf("root ::= " + "(" * 2000 + '"a"' + ")" * 2000),
    "a token of no vocabulary": ebnf("root ::= Token(99999999)"),
    "a token of no vocabulary, negative": ebnf("root ::= Token(-1)"),
    "not a format": unchecked({"type": "made_up"}),
    "a schema of 20,000 levels": lambda: OutputGrammar(
        '{"type":"structural_tag","format":{"type":"json_schema","json_schema":'
        + '{"items":' * 20_000
        + "{}"
        + "}" * 20_000
        + "}}",
        PARAM,
    ),
}

UNSUPPORTED = {
    "a lookahead": pattern("^(?=a)b$"),
    "an anchor inside": pattern("a^b"),
    "steps of a number": schema({"type": "number", "multipleOf": 0.1}),
    "length beside a pattern": schema({"type": "string", "pattern": "^a+$", "maxLength": 2}),
    "length beside a format": schema({"type": "string", "format": "email", "maxLength": 9}),
    "branches that overlap": schema({"oneOf": [{"type": "number"}, {"type": "integer"}]}),
    "a Lark grammar": ebnf('start: "a"'),
}

BEARABLE = {
    "(a|a)*": regex("(a|a)*"),
    "(a|aa)+": regex("(a|aa)+$"),
    "words": regex(r"(\w+[ ,.])+"),
    "a choice of suffixes": regex("[ab]*a[ab]{18}"),
    "a long repetition": regex("[a-z]{1,4000}"),
    "a thousand brackets": regex("(" * 500 + "a" + ")" * 500),
    "left recursion": ebnf('root ::= root "a" | "a"'),
    "doubling": chain(30, "NEXT NEXT", '"a"'),
    "an alternative that never ends": ebnf('root ::= "a" b | "c"', 'b ::= "d" b'),
    "a chain of rules": chain(200, '"x" NEXT | "y"', '"a"'),
    "a schema of 60 levels": schema(nested(60)),
    "doubling references": schema(
        {
            "$ref": "#/$defs/a0",
            "$defs": {
                **{
                    f"a{n}": {
                        "type": "object",
                        "properties": {
                            side: {"$ref": f"#/$defs/a{n + 1}"} for side in ("left", "right")
                        },
                        "required": ["left", "right"],
                    }
                    for n in range(30)
                },
                "a30": {"type": "string"},
            },
        }
    ),
    "no end, but at every token": schema(
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    ),
    "alternatives of themselves": schema(
        {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "string"}]}},
        }
    ),
    "4,000 values": schema({"enum": [f"value {number}" for number in range(4000)]}),
    "one long value": schema({"const": "x" * 60_000}),
    "many arrays of arrays": schema(
        {"type": "array", "maxItems": 1000, "items": nested(3) | {"maxItems": 1000}}
    ),
    "a hundred optional properties": schema(optional(100)),
    "2,000 choices": lambda: output_grammar.choice([f"c{n}" for n in range(2000)], PARAM),
}


async def assert_answers(checker: GrammarChecker) -> None:
    async with asyncio.timeout(HANG_S):
        await checker.check(healthy())


@pytest.mark.parametrize("name", TOO_COMPLEX)
async def test_what_is_too_complex_is_refused(checker: GrammarChecker, name: str) -> None:
    assert await verdict(checker, TOO_COMPLEX[name]) == "grammar_too_complex"
    await assert_answers(checker)


@pytest.mark.parametrize("name", INVALID)
async def test_what_cannot_be_compiled_or_written_is_refused(
    checker: GrammarChecker, name: str
) -> None:
    assert await verdict(checker, INVALID[name]) == "invalid_grammar"
    await assert_answers(checker)


@pytest.mark.parametrize("name", UNSUPPORTED)
async def test_what_the_compiler_would_pass_over_is_refused(
    checker: GrammarChecker, name: str
) -> None:
    assert await verdict(checker, UNSUPPORTED[name]) == "unsupported_grammar"
    await assert_answers(checker)


@pytest.mark.parametrize("name", BEARABLE)
async def test_what_only_looks_hostile_is_let_through(checker: GrammarChecker, name: str) -> None:
    assert await verdict(checker, BEARABLE[name]) is None


async def test_a_patterns_long_repetition_is_refused_as_the_engine_would_fail(
    checker: GrammarChecker,
) -> None:
    """xgrammar 0.2.8 fails on it if its cache is on, as it is in vLLM."""
    beyond = unchecked(
        {"type": "json_schema", "json_schema": {"type": "string", "pattern": "[a-z]{0,200}"}}
    )
    assert await verdict(checker, beyond) == "invalid_grammar"


async def test_memory_is_bounded(checker: GrammarChecker) -> None:
    values = [f"value {number}" for number in range(5_000)]
    wide = unchecked({"type": "json_schema", "json_schema": {"enum": values}})
    assert await verdict(checker, wide) is None
    small = make_checker(max_bytes=16 * 1024**2)
    try:
        assert await verdict(small, wide) == "grammar_too_complex"
        await assert_answers(small)
    finally:
        await small.close()


async def test_hostile_grammars_of_many_clients_are_refused_in_turn(
    checker: GrammarChecker,
) -> None:
    hostile = [regex(f"(.{{0,30}}){{0,{number}}}") for number in range(20, 28)]
    verdicts = await asyncio.gather(
        *(verdict(checker, make) for make in hostile), *(assert_answers(checker) for _ in range(4))
    )
    assert verdicts == ["grammar_too_complex"] * 8 + [None] * 4


async def test_a_killed_worker_is_replaced(checker: GrammarChecker) -> None:
    await assert_answers(checker)
    os.killpg(worker_pid(checker), signal.SIGKILL)
    assert await verdict(checker, healthy) == "grammar_too_complex"
    await assert_answers(checker)


async def test_a_child_that_is_killed_while_idle_is_not_noticed(checker: GrammarChecker) -> None:
    await assert_answers(checker)
    worker = worker_pid(checker)
    (child,) = children(worker)
    os.kill(child, signal.SIGKILL)
    async with asyncio.timeout(HANG_S):
        while child in children(worker):
            await asyncio.sleep(0.01)
    await assert_answers(checker)
    assert worker_pid(checker) == worker


async def test_closing_leaves_no_process() -> None:
    checker = make_checker()
    await assert_answers(checker)
    worker = worker_pid(checker)
    pids = [worker, *children(worker)]
    assert len(pids) == 2
    await checker.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


async def test_a_checkpoint_that_is_not_there_is_an_error_of_the_server(tmp_path: Path) -> None:
    checker = make_checker(model=tmp_path)
    try:
        with pytest.raises(RuntimeError, match="does not start"):
            await checker.check(healthy())
    finally:
        await checker.close()


def worker_pid(checker: GrammarChecker) -> int:
    worker = checker._worker
    assert worker is not None
    return worker._process.pid


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]
