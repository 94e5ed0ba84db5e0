"""The switches that decide whether the same work gives the same bits; set before the first tensor.

docs/determinism.md explains each switch.
"""

import os

import torch
from torch.utils import deterministic

from llmrun.core.training_spec import TrainingSpec
from llmrun.errors import RunFailedError

CUBLAS_WORKSPACE = ":4096:8"


def set_determinism(spec: TrainingSpec) -> None:
    """Set the switches of the config's mode; threads are pinned in both.

    Raises RunFailedError if an environment variable that must be set before torch is imported is not.
    """
    threads = spec.threads_per_rank
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if os.environ.get(variable) != str(threads):
            raise RunFailedError(
                f"{variable} must be {threads} (hardware.threads_per_rank), got {os.environ.get(variable)}",
                hints=["start the run with `llmrun train`, which sets the variables of its workers"],
            )
    if spec.device == "cuda" and os.environ.get("CUBLAS_WORKSPACE_CONFIG") != CUBLAS_WORKSPACE:
        found = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
        raise RunFailedError(f"CUBLAS_WORKSPACE_CONFIG must be {CUBLAS_WORKSPACE}, got {found}")
    torch.set_num_threads(threads)
    set_float_mode()
    if spec.is_statistical:
        use_fast_kernels()
    else:
        use_deterministic_kernels()


def set_float_mode() -> None:
    """Keep denormal numbers: a library built with -ffast-math sets flush-to-zero for the thread that loads it.

    Threads that are created later inherit the mode of this one.
    """
    torch.set_flush_denormal(False)


def use_fast_kernels() -> None:
    """Set the switches of statistical mode: fast kernels, whose bits may differ from run to run."""
    torch.use_deterministic_algorithms(mode=False)
    torch.backends.cudnn.deterministic = False
    torch.backends.cudnn.benchmark = True


def use_deterministic_kernels() -> None:
    """Set the switches of bitwise mode."""
    torch.use_deterministic_algorithms(mode=True, warn_only=False)
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set through the module's class
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.enable_cudnn_sdp(enabled=False)
    torch.backends.cuda.enable_flash_sdp(enabled=True)
    torch.backends.cuda.enable_mem_efficient_sdp(enabled=True)
    torch.backends.cuda.enable_math_sdp(enabled=True)
    torch.set_float32_matmul_precision("highest")
