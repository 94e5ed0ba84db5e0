"""The canary and the mapped libraries: what chooses other kernels without showing in a version or a flag."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from llmrun.machine import cpu_flags

FLUSHING = """
#include <xmmintrin.h>
__attribute__((constructor)) static void fast_math(void) { _mm_setcsr(_mm_getcsr() | 0x8040); }
"""

LOOKING = """
import json, sys
{before}
import torch
from llmrun.provenance.mapped_libraries import by_name, mapped_libraries
from llmrun.runtime.canary import canary
from llmrun.core.determinism import set_float_mode
torch.set_num_threads(1)
at = torch.device("cpu")
first = canary(at)
set_float_mode()
print(json.dumps([first, canary(at), by_name(mapped_libraries({{}}))]))
"""

WITHOUT_AMX = """
import ctypes, struct
ARCH_PRCTL, REQ_XCOMP_PERM, EPERM = 158, 0x1023, 1
def instruction(code, yes, no, value): return struct.pack("HBBI", code, yes, no, value)
program = b"".join([
    instruction(0x20, 0, 0, 0),                       # the number of the system call
    instruction(0x15, 0, 3, ARCH_PRCTL),
    instruction(0x20, 0, 0, 16),                      # its first argument
    instruction(0x15, 0, 1, REQ_XCOMP_PERM),
    instruction(0x06, 0, 0, 0x00050000 | EPERM),      # refuse
    instruction(0x06, 0, 0, 0x7FFF0000),              # allow
])
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0                # no new privileges
assert libc.prctl(22, 2, ctypes.byref(Program(len(program) // 8, program)), 0, 0) == 0
"""


def look(before: str = "", **variables: str) -> tuple[dict, dict, dict]:
    """The canary as a process starts, the canary after the float mode is set, and the mapped libraries."""
    done = subprocess.run(
        [sys.executable, "-c", LOOKING.format(before=before)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def plain():
    """This machine without any trap."""
    return look()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc to build a library with")
@pytest.mark.parametrize("variable", ["LD_PRELOAD", pytest.param("LD_LIBRARY_PATH", marks=pytest.mark.slow)])
def test_a_library_that_flushes_denormals_is_seen_and_undone(plain, tmp_path, variable):
    """The canary sees the mode, setting the mode takes it back, and the library is on record by its content."""
    library = tmp_path / "librt.so.1"  # torch needs one of this name, and finds it where LD_LIBRARY_PATH says
    (tmp_path / "fast.c").write_text(FLUSHING)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "fast.c"], check=True)
    value = library if variable == "LD_PRELOAD" else tmp_path
    first, after, mapped = look(**{variable: str(value)})

    assert first["float_mode"] != plain[0]["float_mode"]
    assert after == plain[1] == plain[0]
    assert mapped["librt.so.1"] == hashlib.sha256(library.read_bytes()).hexdigest()
    assert "librt.so.1" not in plain[2]


def test_a_process_that_may_not_use_amx_is_seen(plain):
    """Flags and capability stay the same, the bf16 products do not."""
    if "amx_tile" not in cpu_flags():
        pytest.skip("this processor has no AMX")
    without = look(before=WITHOUT_AMX)

    assert without[1]["linear_bf16"] != plain[1]["linear_bf16"]


@pytest.mark.slow
def test_another_instruction_set_is_seen(plain):
    """A oneDNN that is kept from wider vectors computes other bits in bf16."""
    if "avx512_bf16" not in cpu_flags():
        pytest.skip("this processor has no bf16 instructions to be kept from")

    assert look(ONEDNN_MAX_CPU_ISA="AVX2")[1]["linear_bf16"] != plain[1]["linear_bf16"]


def test_the_large_libraries_are_on_record(plain):
    """torch, its OpenMP, libm and libc, each by sha256."""
    names = {name.partition(".so")[0].partition("-")[0] for name in plain[2]}

    assert {"libtorch_cpu", "libgomp", "libm", "libc"} <= names
    assert all(len(digest) == 64 for digest in plain[2].values())
