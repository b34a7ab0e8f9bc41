"""How many files and connections the process may have open."""

import logging
import resource

logger = logging.getLogger(__name__)

_FOR_OTHERS = 512  # files, pipes, connections to media hosts and engines


def raise_file_limit(max_connections: int) -> None:
    """As far as the system allows; a warning says if that is too few for all connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < max_connections + _FOR_OTHERS:
        logger.warning(
            "at most %d files may be open (`ulimit -Hn`): too few for max_connections (%d)",
            hard,
            max_connections,
        )
