"""Memory that an encoder's layers take and give back, kept in the process in between.

The C library glibc gives every large array back to the kernel when it is freed, and
takes it again, page by page, for the next layer. For a small encoder of photographs
this costs as much as the computing. Elsewhere than on glibc nothing is done.
"""

import ctypes
import functools

#: Parameters of glibc's ``mallopt``, from its ``malloc.h``.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return library if hasattr(library, "gnu_get_libc_version") else None


@functools.cache
def keep_freed_memory() -> None:
    """Let freed memory stay in the process, from the first call on."""
    if library := _glibc():
        library.mallopt(M_MMAP_THRESHOLD, 2**31 - 1)
        library.mallopt(M_TRIM_THRESHOLD, -1)


def give_back_freed_memory() -> None:
    """Give the kernel what was kept, for example before a process is forked."""
    if library := _glibc():
        library.malloc_trim(0)
