"""Memory that is used again: every step frees large tensors and asks for the same sizes anew."""

from __future__ import annotations

import ctypes
import platform

_TRIM, _TOP_PAD, _MMAP = -1, -2, -3  # M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD of <malloc.h>
_LARGEST = 32 * 2**20  # more is refused


def keep_freed() -> bool:
    """Let this process keep freed memory for the next tensor; return whether its allocator could be told so.

    Otherwise glibc hands large tensors back to the kernel, whose pages come back zeroed and mapped one by one: a tenth
    of the processor time of a training step. What a process uses at its peak stays with it; the peak does not rise.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    told = ((_MMAP, _LARGEST), (_TRIM, 2**31 - 1), (_TOP_PAD, 2 * _LARGEST))
    taken = [mallopt(option, value) == 1 for option, value in told]
    return all(taken)
