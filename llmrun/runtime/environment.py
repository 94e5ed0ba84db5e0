"""The environment part of the fingerprint, as this process finds it: versions, devices, libraries, variables, canary."""

import ctypes
import os
import platform
from collections.abc import Sequence
from importlib.metadata import distributions, version
from typing import Any

import numpy as np
import torch

from llmrun.machine import cpu_flags, cpu_vendor
from llmrun.provenance.mapped_libraries import FileSum, by_name, mapped_libraries
from llmrun.provenance.variables import numeric_variables
from llmrun.runtime.canary import canary
from llmrun.runtime.model_import import packages


def environment(
    indexes: Sequence[int], libraries: dict[str, FileSum], *, with_canary: bool = True
) -> dict[str, Any]:
    """Read what may change a bit: build of torch, libraries, devices, instruction set, variables, canary; the packages of a user's model.

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
        **({"packages": packages()} if packages() else {}),
    }


def _device(index: int) -> str:
    """What kernels are chosen by on a GPU: name, compute capability, number of multiprocessors."""
    facts = torch.cuda.get_device_properties(index)
    return f"{facts.name}, sm_{facts.major}{facts.minor}, {facts.multi_processor_count} SMs"


def _cublas() -> str | None:
    """Versions of the loaded cuBLAS and cuBLASLt; that of the package if none is loaded, None without a package."""
    return _loaded_cublas() or _cublas_package()


def _loaded_cublas() -> str | None:
    """Versions that the loaded libraries report: torch may load others than the package's."""
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
    """The version of the cuBLAS package that torch depends on; None if cuBLAS comes with the CUDA toolkit."""
    names = [d.metadata["Name"] or "" for d in distributions()]
    found = [name for name in names if name.startswith("nvidia-cublas")]
    # the first by name, not by the order of a directory: several may be installed
    return f"{min(found)} {version(min(found))}" if found else None


def _libraries() -> list[str]:
    """Lines of torch's build configuration that name BLAS and DNN libraries and their versions."""
    lines = [line.strip(" -") for line in torch.__config__.show().splitlines()]
    return [
        line for line in lines if line.startswith(("Intel(R)", "OpenMP", "LAPACK", "CuDNN", "Magma", "Eigen"))
    ]
