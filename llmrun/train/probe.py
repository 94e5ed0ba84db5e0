"""What a worker would be: environment and imported code, as JSON on a file descriptor.

`boot.py -m llmrun.train.probe cpu|cuda`, started in exactly the environment of a worker.  It imports
and switches on what a worker does by its first step, so that both load the same.  `environment` may change bits and is
digested; `recorded` only moves bytes or names the machine.
"""

import ctypes
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import distributions, version
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import llmrun.train.session
import llmrun.train.worker  # noqa: F401  imported so that its source is seen
from llmrun.machine import ANSWER, RANKS, cpu_flags, cpu_vendor, visible_gpus
from llmrun.provenance.code import numeric_files
from llmrun.provenance.environment import is_secret
from llmrun.provenance.imports import ImportRecorder
from llmrun.provenance.mapped import FileSum, by_name, mapped_libraries
from llmrun.provenance.variables import numeric_variables
from llmrun.train.canary import canary
from llmrun.train.determinism import set_float_mode, use_deterministic_kernels

TRANSPORT_VARIABLES = ("NCCL_", "TORCH_NCCL_", "GLOO_", "UCX_", "FI_")


def probe(device: str) -> dict[str, Any]:
    """The three parts for a run on `device`: environment, recorded, source_files (import path -> digest)."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    set_float_mode()
    use_deterministic_kernels()
    on_gpu = device == "cuda" and torch.cuda.is_available()
    count = torch.cuda.device_count() if on_gpu else 0
    indexes = range(min(count, int(os.environ.get(RANKS, count))))
    libraries: dict[str, FileSum] = {}
    found = environment(indexes, libraries)
    files = {path: [file.sha256, *file.identity] for path, file in libraries.items()}
    return {
        "environment": found,
        "recorded": {**recorded(), "mapped_files": files},
        "source_files": source_files(),
    }


def environment(
    indexes: Sequence[int], libraries: dict[str, FileSum], *, with_canary: bool = True
) -> dict[str, Any]:
    """What may change a bit: build of torch, libraries, devices, instruction set, variables, canary.

    indexes:   of the GPUs that are used; empty on a CPU.
    libraries: known sums of library files, by path; the sums of the mapped ones are added.
    with_canary: a run in statistical mode sets other switches than the probe, and does not compare it.
    What belongs to GPUs counts only for a run on GPUs, and the CPU's facts only without: there the CPU's part of the
    canary holds what a CPU still computes (initial values, tables).
    """
    on_gpu = bool(indexes)
    computed = (
        canary(torch.device("cuda", indexes[0]) if on_gpu else torch.device("cpu")) if with_canary else {}
    )
    if not on_gpu:
        libraries |= mapped_libraries(libraries)
    return {
        "torch": torch.__version__,
        "torch_git": torch.version.git_version,
        "numpy": np.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "cublas": _cublas() if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,  # type: ignore[no-untyped-call]
        "devices": sorted({_device(index) for index in indexes}),
        "instruction_set": None if on_gpu else torch.backends.cpu.get_cpu_capability(),
        "cpu_vendor": None if on_gpu else cpu_vendor(),
        "cpu_flags": None if on_gpu else cpu_flags(),
        "libraries": _libraries(),
        "mapped": {} if on_gpu else by_name(libraries),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "variables": numeric_variables(os.environ),
        "canary": computed,
    }


def _device(index: int) -> str:
    """A GPU as far as kernels are chosen by it: name, compute capability, number of multiprocessors."""
    facts = torch.cuda.get_device_properties(index)
    return f"{facts.name}, sm_{facts.major}{facts.minor}, {facts.multi_processor_count} SMs"


def _cublas() -> str | None:
    """The versions of cuBLAS and cuBLASLt that are loaded; the package's if none answers, None without a package."""
    return _loaded_cublas() or _cublas_package()


def _loaded_cublas() -> str | None:
    """What the libraries in this process say of themselves: torch may load another one than the package's."""
    try:
        loaded = ctypes.CDLL(None)
        value, numbers = ctypes.c_int(), []
        for part in range(3):  # MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL
            if loaded.cublasGetProperty(part, ctypes.byref(value)):
                return None
            numbers.append(str(value.value))
        loaded.cublasLtGetVersion.restype = ctypes.c_size_t
        return f"cublas {'.'.join(numbers)}, cublasLt {loaded.cublasLtGetVersion()}"
    except (OSError, AttributeError):
        return None


def _cublas_package() -> str | None:
    """The version of the cuBLAS package that torch brought; None where it is part of the toolkit."""
    names = [d.metadata["Name"] or "" for d in distributions()]
    found = [name for name in names if name.startswith("nvidia-cublas")]
    # the first by name, not by the order of a directory: several may be installed
    return f"{min(found)} {version(min(found))}" if found else None


def _libraries() -> list[str]:
    """The BLAS and DNN libraries that torch was built with and their versions, in torch's own words."""
    lines = [line.strip(" -") for line in torch.__config__.show().splitlines()]
    return [
        line for line in lines if line.startswith(("Intel(R)", "OpenMP", "LAPACK", "CuDNN", "Magma", "Eigen"))
    ]


def recorded() -> dict[str, Any]:
    """What only moves bytes, or names this machine."""
    return {
        "python": sys.version,
        "nccl": list(torch.cuda.nccl.version()) if dist.is_nccl_available() else None,  # type: ignore[no-untyped-call]
        "gpus": [vars(gpu) for gpu in visible_gpus()],
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(TRANSPORT_VARIABLES) and not is_secret(name, value)
        },
    }


def source_files() -> dict[str, str]:
    """Digest of all code that a worker imports and nobody vouches for, and of every numeric module of llmrun."""
    return {**numeric_files(), **ImportRecorder.install().source_files()}


def main(arguments: Sequence[str]) -> None:
    """Write the answer to the probe's file descriptor, as the last line of its file."""
    answer = json.dumps(probe(arguments[0]))
    os.write(int(os.environ[ANSWER]), f"\n{answer}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
