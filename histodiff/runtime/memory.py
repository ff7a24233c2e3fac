"""Memory of a process that computes on the CPU.

glibc gives large blocks back to the system as soon as they are freed, and takes them anew, page by
page, for the next layer of a network: for an autoencoder on 128 px patches a third of all time.
Threads make it worse: each has an arena of its own, of which glibc gives back whole heaps whatever
it is told. Only the environment that a process starts with keeps all threads in one arena.
"""

import ctypes

ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""Environment variables of a process with threads that call ``keep_freed_memory``."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc


def keep_freed_memory() -> None:
    """From now on, what this process frees is kept for its own use; other C libraries: no change.

    Reaches the main thread, and all threads of a process that was started with ``ONE_ARENA``.
    The process stays as large as it ever was. No result changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
