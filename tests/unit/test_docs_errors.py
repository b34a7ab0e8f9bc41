"""docs/troubleshooting.md has every code that an error can have, with its status."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from server import errors
from server.engine import EngineDead, InvalidSampling

ROOT = Path(__file__).parents[2]
# Where the code is no literal, and which it can be there: {} if it comes from elsewhere in here.
COMPUTED = {
    ("server/access/allowance.py", "RateLimited", "_CODE"): {"rate_limit_exceeded": 429},
    ("server/errors.py", "_answer", "slugs.get(status, 'http_error')"): {
        "not_found": 404,
        "method_not_allowed": 405,
        "http_error": None,
    },
    ("server/errors.py", "InvalidRequest", "code"): {
        "unsupported_parameter": 400,
        "missing_parameter": 400,
        "invalid_value": 400,
    },
    ("server/errors.py", "_answer", "error.code"): {},
    ("server/errors.py", "_answer", "code"): {
        "invalid_sampling": 400,
        "engine_dead": 503,
        "internal_error": 500,
    },
    ("server/errors.py", "", "code"): {},
    ("server/grammar/check.py", "Verdict", "code"): {},
    ("server/grammar/check.py", "InvalidRequest", "verdict.code"): {},
    ("server/grammar/limits.py", "InvalidRequest", "code"): {},
    ("server/grammar/worker.py", "", "refused.code"): {},
    ("server/state.py", "NotReady", "*(self._refusal or _SHUTTING_DOWN)"): {"shutting_down": 503},
    ("server/state.py", "NotReady", "*self._refusal"): {
        "shutting_down": 503,
        "restarting": 503,
        "sleeping": 503,
        "cache_reset": 503,
    },
}
_STATUS = {cls.__name__: status for cls, status in errors._STATUS.items()}
# verdicts on grammars, which become errors in one place
_STATUS |= dict.fromkeys(("Verdict", "Refused", "_refuse"), 400)
# classes with a code that do not inherit it
_ROOTS = ("ServeError", "RateLimited", "FetchFailed", "MediaError", "Verdict", "Refused")
_SLUG = re.compile(r"[a-z_]+")


class Source:
    """The syntax trees of the server, with what its functions call `code`."""

    def __init__(self) -> None:
        self.trees = {
            str(path.relative_to(ROOT)): ast.parse(path.read_text())
            for folder in ("server", "multimodal")
            for path in sorted((ROOT / folder).rglob("*.py"))
        }
        nodes = [node for tree in self.trees.values() for node in ast.walk(tree)]
        self._classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
        self.bases = {c.name: [_last(base) for base in c.bases] for c in self._classes}
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        self._places = {
            function.name: place
            for function in functions
            if function.name in ("_answer", "_refuse") and (place := _place(function)) is not None
        }
        for node in self._classes:
            place = _class_place(node)
            if place is not None and node.name in _ROOTS:
                self._places[node.name] = place

    def status_of(self, name: str) -> int | None:
        if name in _STATUS:
            return _STATUS[name]
        found = (self.status_of(base) for base in self.bases.get(name, []))
        return next((status for status in found if status is not None), None)

    def place_of(self, name: str) -> int | None:
        """Which positional argument of a function or class is a code."""
        if name in self._places:
            return self._places[name]
        found = (self.place_of(base) for base in self.bases.get(name, []))
        return next((place for place in found if place is not None), None)

    def uses(self) -> Iterator[tuple[str, str, ast.expr]]:
        """(file, function or class, expression) of everything that is a code."""
        for path, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    for call in _calls_of_super(node):
                        codes = [
                            c for base in self.bases[node.name] for c in self._code(call, base)
                        ]
                        for code in codes:
                            if ast.unparse(code) != "code":  # handed on
                                yield path, node.name, code
                elif isinstance(node, ast.FunctionDef):
                    name = "FetchFailed" if node.name == "__init__" else node.name
                    yield from ((path, name, code) for code in _defaults(node))
                elif isinstance(node, ast.Call):
                    name = _last(node.func)
                    if name == "_answer" and path != "server/errors.py":
                        continue  # another function
                    yield from ((path, name, code) for code in self._code(node, name))
                elif isinstance(node, ast.Dict):
                    for key, value in zip(node.keys, node.values, strict=True):
                        if isinstance(key, ast.Constant) and key.value == "code":
                            yield path, "", value

    def _code(self, call: ast.Call, name: str) -> Iterator[ast.expr]:
        place = self.place_of(name)
        if place is None:
            return
        yield from (word.value for word in call.keywords if word.arg == "code")
        starred = [argument for argument in call.args if isinstance(argument, ast.Starred)]
        yield from starred or call.args[place : place + 1]


def _last(node: ast.expr) -> str:
    return ast.unparse(node).split(".")[-1].split("[")[0]


def _place(function: ast.FunctionDef) -> int | None:
    names = [argument.arg for argument in function.args.args if argument.arg != "self"]
    return names.index("code") if "code" in names else None


def _class_place(node: ast.ClassDef) -> int | None:
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return _place(member)
    fields = [
        member.target.id
        for member in node.body
        if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name)
    ]
    return fields.index("code") if "code" in fields and node.name == "Verdict" else None


def _defaults(function: ast.FunctionDef) -> Iterator[ast.expr]:
    arguments = [*function.args.posonlyargs, *function.args.args]
    with_default = arguments[len(arguments) - len(function.args.defaults) :]
    pairs = zip(with_default, function.args.defaults, strict=True)
    yield from (default for argument, default in pairs if argument.arg == "code")


def _calls_of_super(node: ast.ClassDef) -> Iterator[ast.Call]:
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
            yield call


def _words(node: ast.expr) -> set[str | None] | None:
    """The literals of an expression, None if it is none."""
    if isinstance(node, ast.Constant):
        return {node.value}
    if isinstance(node, ast.IfExp):
        both = [_words(node.body), _words(node.orelse)]
        return None if None in both else {word for words in both for word in words or ()}
    return None


@cache
def codes_of_the_source() -> tuple[dict[str, set[int]], set[tuple[str, str, str]]]:
    """Each code with its statuses; and the places where it is computed."""
    source = Source()
    codes: dict[str, set[int]] = defaultdict(set)
    computed = set()
    for path, name, node in source.uses():
        words = _words(node)
        if words is None:
            computed.add((path, name, ast.unparse(node)))
        else:
            status = source.status_of(name)
            for word in filter(_SLUG.fullmatch, map(str, words - {None})):
                codes[word] |= {status} if status else set()
    for found in COMPUTED.values():
        for word, status in found.items():
            codes[word] |= {status} if status else set()
    return codes, computed


def rows_of_the_page() -> dict[str, set[int]]:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|([\d, x]*)\|", page, re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a code is there twice"
    return {code: {int(s) for s in re.findall(r"\d{3}", statuses)} for code, statuses in rows}


def test_codes_are_computed_where_it_is_known_which_they_are() -> None:
    _, computed = codes_of_the_source()
    assert computed - COMPUTED.keys() == set()


def test_every_code_has_a_row() -> None:
    codes, _ = codes_of_the_source()
    assert len(codes) > 80
    assert codes.keys() ^ rows_of_the_page().keys() == set()


def test_every_row_has_the_statuses_of_its_code() -> None:
    codes, _ = codes_of_the_source()
    known = {  # of exceptions that are not in the table by themselves
        "internal_error": {500},
        "profiler_failed": {500},
        "invalid_sampling": {errors.status_of(InvalidSampling(""))},
        "engine_dead": {errors.status_of(EngineDead())},
    }
    rows = rows_of_the_page()
    assert {code: rows.get(code) for code in codes} == {
        code: known.get(code, statuses) for code, statuses in codes.items()
    }
