"""Large blocks of host memory return to the system when they are freed; seen in a process of its own, by its size."""

from __future__ import annotations

import sys

import pytest
from support import micro

GAPS = """\
import ctypes, psutil, sys
from peftodyssey.memory.device import return_large_tensors
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
if sys.argv[1] == "returned":
    return_large_tensors()

def block(mib):
    address = library.malloc(mib << 20)
    ctypes.memset(address, 1, mib << 20)
    return address

library.free(block(24))  # glibc now keeps blocks of up to 24 MiB
resident = psutil.Process().memory_info().rss
large, small = [], []
for _ in range(10):
    large.append(block(8))
    small.append(library.malloc(64 << 10))
for address in large:
    library.free(address)
print((psutil.Process().memory_info().rss - resident) >> 20)
"""  # small blocks between the large ones keep the heap from shrinking


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_tensors_of_large_steps_return_to_the_system() -> None:
    kept, returned = (int(micro.command(how, code=GAPS).stdout) for how in ("kept", "returned"))
    assert kept >= 70
    assert returned <= 8
