"""Which paths are for whom, where API keys are asked for. What is not listed needs any of them."""

from collections.abc import Mapping

from starlette.datastructures import QueryParams

OPEN_PATHS = frozenset({"/health", "/ready"})
PAGE_PATH = "/"
PAGE_FILES = "/ui/"  # what the page loads is below it
METRICS_PATH = "/metrics"
OPERATOR_PATHS = frozenset(
    {
        METRICS_PATH,
        "/start_profile",
        "/stop_profile",
        "/sleep",
        "/wake_up",
        "/is_sleeping",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/reset_prefix_cache",
        "/reset_encoder_cache",
    }
)


def is_open(path: str, query: bytes) -> bool:
    """Whether no key is asked for."""
    if path == PAGE_PATH or path.startswith(PAGE_FILES):
        return True
    return path in OPEN_PATHS and not _wants_details(path, query)


def is_for_operators(path: str, query: bytes) -> bool:
    """Whether an admin key is needed, if there is any."""
    return path in OPERATOR_PATHS or _wants_details(path, query)


def _wants_details(path: str, query: bytes) -> bool:
    """The checksums of `/health?details=1` cost the engine some time."""
    if path != "/health" or not query:
        return False
    params: Mapping[str, str] = QueryParams(query)
    return params.get("details", "0") != "0"
