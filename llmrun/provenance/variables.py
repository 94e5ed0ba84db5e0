"""Which environment variables may change a bit: digested in the fingerprint, and set again where a run is replayed."""

import re
from collections.abc import Mapping

from llmrun.provenance.environment import is_secret

DETERMINISM_VARIABLES = (
    # libraries below torch: threads, instruction sets, kernels, workspaces
    "CUBLAS_", "CUBLASLT_", "TORCH_CUBLAS", "DNNL_", "KMP_", "MKL_", "OMP_", "ONEDNN_", "OPENBLAS_",
    # what torch's own variables choose: instruction set, TF32, one library or another, kernels by trying
    "ATEN_", "PYTORCH_TENSOREXPR", "PYTORCH_TUNABLEOP_", "TORCH_ALLOW_TF32_", "TORCH_BLAS_PREFER_", "TORCH_CUDNN_",
    "TORCH_LINALG_PREFER_", "TORCH_LINEAR_", "TORCH_MKLDNN_", "TORCH_PYTHON_NATIVE_",
    # compilers, which a user's own model may call
    "PYTORCH_NVFUSER", "TORCHDYNAMO_", "TORCHINDUCTOR_", "TORCH_JIT_", "TRITON_",
)  # fmt: skip
"""Beginnings of names that can change a bit; most of TORCH_ and PYTORCH_ only logs, debugs or allocates."""

DETERMINISM_NAMES = (
    "CUDA_FORCE_PTX_JIT", "DISABLE_ADDMM_CUDA_LT", "GLIBC_TUNABLES", "LD_AUDIT", "LD_PRELOAD", "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_JIT",
    "TORCH_DISABLE_NATIVE_JIT",
)  # fmt: skip
"""Whole names that can change a bit: GLIBC_TUNABLES chooses variants of libm, LD_PRELOAD any function at all.

LD_LIBRARY_PATH is recorded beside: what it makes a process load is digested by content (`provenance/mapped.py`).
"""

NOT_NUMERIC = (
    "OMP_PROC_BIND", "OMP_PLACES", "KMP_AFFINITY", "OMP_DISPLAY_", "MKL_VERBOSE", "DNNL_VERBOSE", "ONEDNN_VERBOSE",
    "CUBLAS_LOG", "CUBLASLT_LOG_", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TRITON_HOME", "TRITON_DUMP_DIR", "TRITON_PRINT_", "TORCH_CUDNN_V8_API_DEBUG",
)  # fmt: skip
"""Of these, what only places threads or logs."""

LOADS_CODE = re.compile(r"PRELOAD|TOOL|LIBRAR|PATH|DIR|FILE")
PLAIN_VALUE = re.compile(r"[A-Za-z0-9_.,:;=+-]*")
"""No slash: no path."""


def numeric_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that may change a bit, by name; never a secret: they end in run.json."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if (name.startswith(DETERMINISM_VARIABLES) or name in DETERMINISM_NAMES)
        and not name.startswith(NOT_NUMERIC)
        and not is_secret(name, value)
    }


def with_recorded_variables(environment: Mapping[str, str], recorded: Mapping[str, str]) -> dict[str, str]:
    """`environment` with the numeric variables that a run recorded instead of its own.

    A run may come from a stranger: what could load a library or name a file is not taken over.
    """
    kept = {name: value for name, value in environment.items() if not numeric_variables({name: value})}
    return kept | {name: value for name, value in recorded.items() if is_harmless(name, value)}


def is_harmless(name: str, value: str) -> bool:
    """Whether a recorded variable only chooses among what is installed here."""
    is_numeric = bool(numeric_variables({name: value}))
    return is_numeric and not LOADS_CODE.search(name) and bool(PLAIN_VALUE.fullmatch(value))
