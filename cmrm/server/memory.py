"""The memory of a server, which many threads share."""

import ctypes
from contextlib import suppress

M_ARENA_MAX = -8  # of glibc's malloc.h


def share_arenas() -> None:
    """Let threads share two heaps: with one for each, glibc keeps tens of MB more whenever a crowd comes."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)
