"""The C library gives large blocks back when they are freed, whatever has been freed before."""

import ctypes
import subprocess
import sys

import pytest

# Argument: whether to call it. A large block that is freed makes glibc raise its threshold; how
# many blocks of a kernel's size does it map then?
_PROGRAM = """
import ctypes, sys
from model_executor.large_blocks import map_large_blocks

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]

libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
libc.mallinfo2.restype = Info
if sys.argv[1] == "True":
    assert map_large_blocks()
libc.free(libc.malloc(8 << 20))
before = libc.mallinfo2().hblks
blocks = [libc.malloc(250 << 10) for _ in range(20)]
held = libc.mallinfo2().hblks - before
for block in blocks:
    libc.free(block)
print(held, libc.mallinfo2().hblks - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="not glibc 2.33 or later")
@pytest.mark.parametrize(("is_called", "num_mapped"), [(True, 20), (False, 0)])
def test_blocks_of_a_kernels_size_are_mapped_one_by_one(is_called: bool, num_mapped: int) -> None:
    command = [sys.executable, "-c", _PROGRAM, str(is_called)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert [int(number) for number in result.stdout.split()] == [num_mapped, 0]
