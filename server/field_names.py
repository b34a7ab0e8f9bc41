"""Errors about a request that was translated, in the words of the body it was translated from."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from multimodal.errors import MediaError
from server.errors import ServeError

_QUOTED_NAME = re.compile(r"`([^`]*)`")


@contextmanager
def named_by(field_names: Mapping[str, str]) -> Iterator[None]:
    """Errors from inside name fields as the body does, in `param` and in the message.

    Args:
        field_names: what the core calls a field -> what the body calls it, where they differ.
    """
    try:
        yield
    except (ServeError, MediaError) as error:
        if error.param is not None:
            error.param = field_names.get(error.param, error.param)
        error.message = _QUOTED_NAME.sub(
            lambda quoted: f"`{field_names.get(quoted[1], quoted[1])}`", error.message
        )
        raise
