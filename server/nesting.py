"""How deep clients' JSON may nest where it is handed on: templates and serialisers recurse."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

MAX_NESTING = 64  # objects and arrays in each other; vLLM's limit for schemas as well


def is_nested_deeper(value: object, levels: int = MAX_NESTING) -> bool:
    children: Iterable[object] = ()
    if isinstance(value, Mapping):
        children = value.values()
    elif isinstance(value, list):
        children = value
    else:
        return False
    return levels == 0 or any(is_nested_deeper(child, levels - 1) for child in children)


def check_nesting(value: Any) -> Any:
    """Raises: ValueError."""
    if is_nested_deeper(value):
        raise ValueError(f"objects and arrays nest deeper than {MAX_NESTING} levels")
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(check_nesting)]
