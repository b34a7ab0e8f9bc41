"""Who may import whom, read from the sources without importing them."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("server", "multimodal", "model_executor", "demo", "benchmarks", "release", "tests")
VLLM_ADAPTERS = ("server/vllm_", "multimodal/vllm_")  # the latter run in the worker too
# The commands, which put the parts together.
ENTRY_POINTS = ("server/cli.py", "server/serve.py")
STOCK_MODELS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")


def source_files() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """`import a.b` -> `a.b`; `from a import b` -> `a.b`, which may be a module or a name in one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


def violations(is_forbidden: Callable[[str, str], bool]) -> list[str]:
    return [
        f"{file} imports {module}"
        for file, tree in source_files()
        for module in imported_modules(tree)
        if is_forbidden(file, module)
    ]


def top(name: str, separator: str = ".") -> str:
    return name.split(separator)[0]


def test_there_are_sources_to_check() -> None:
    assert {top(file, "/") for file, _ in source_files()} >= {"server", "multimodal", "tests"}


@pytest.mark.parametrize(
    ("package", "may_import"),
    [
        ("server", {"multimodal"}),
        ("model_executor", {"multimodal"}),
        ("multimodal", set()),
        ("demo", {"multimodal"}),
    ],
)
def test_imports_go_one_way(package: str, may_import: set[str]) -> None:
    forbidden = set(PACKAGES) - may_import - {package}

    def is_forbidden(file: str, module: str) -> bool:
        is_bound = top(file, "/") == package and file not in ENTRY_POINTS
        return is_bound and top(module) in forbidden

    assert violations(is_forbidden) == []


def test_the_api_side_imports_vllm_in_its_adapters_only() -> None:
    def is_forbidden(file: str, module: str) -> bool:
        is_adapter = file.startswith(VLLM_ADAPTERS)
        is_api_side = file.startswith(("server/", "multimodal/"))
        is_vllm = top(module) == "vllm" or module.startswith("multimodal.vllm_")
        return is_api_side and not is_adapter and is_vllm

    assert violations(is_forbidden) == []


def test_torchvision_is_never_imported() -> None:
    allowed = "tests/parity/make_goldens.py"  # runs in an environment of its own
    found = violations(lambda file, module: file != allowed and top(module) == "torchvision")
    assert found == []


def test_stock_models_of_vllm_are_never_imported() -> None:
    def is_forbidden(file: str, module: str) -> bool:
        parts = module.split(".")
        return parts[0] == "vllm" and not set(parts).isdisjoint(STOCK_MODELS)

    assert violations(is_forbidden) == []


def test_relative_imports_are_not_used() -> None:
    """They would escape the rules above."""
    found = [
        file
        for file, tree in source_files()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]
    assert found == []


def test_the_server_reads_the_environment_in_its_settings_only() -> None:
    """`server/vllm_args.py` and `server/vllm_start.py` may set defaults for vLLM."""
    allowed = ("server/settings.py", "server/vllm_args.py", "server/vllm_start.py")
    found = [
        f"{file}: {ast.unparse(node)}"
        for file, tree in source_files()
        for node in ast.walk(tree)
        if file.startswith("server/") and file not in allowed and is_environment(node)
    ]
    assert found == []


def is_environment(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in ("environ", "environb", "getenv", "putenv")
    if isinstance(node, ast.ImportFrom) and node.module == "os":
        return any(alias.name in ("environ", "environb", "getenv") for alias in node.names)
    return False
