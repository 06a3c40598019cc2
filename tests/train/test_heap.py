"""What was freed is used again: counted in pages that the kernel had to hand out."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from regard.train.heap import keep_freed
if sys.argv[1] == "keep":
    assert keep_freed()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    [torch.zeros(6 * 2**20) for _ in range(4)]  # 24 MB each
for _ in range(3):
    step()
before = faults()
for _ in range(20):
    step()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_kept() -> None:
    def pages(how: str) -> int:
        told = subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True)
        return int(told.stdout)

    kept, plain = pages("keep"), pages("leave")
    if plain < 4 * 6144:
        pytest.skip("this kernel hands out large pages: few either way")
    assert kept * 2 < plain
