"""Environment variables: which are recorded, which may change a bit, and which a replay may set again."""

import re
from collections.abc import Mapping

from llmrun.provenance.redaction import is_secret

ALLOWED_PREFIXES = (
    "ATEN_", "CUBLAS_", "CUBLASLT_", "CUDA_", "CUDNN_", "DNNL_", "GLOO_", "KMP_", "MKL_", "NCCL_", "NVIDIA_TF32_",
    "OMP_", "ONEDNN_", "OPENBLAS_", "PYTORCH_", "TORCH_", "TORCHINDUCTOR_", "TORCHDYNAMO_", "TRITON_", "UCX_",
)  # fmt: skip

ALLOWED_NAMES = (
    "DISABLE_ADDMM_CUDA_LT", "GLIBC_TUNABLES", "LC_ALL", "LANG", "LD_AUDIT", "LD_LIBRARY_PATH", "LD_PRELOAD", "MALLOC_CONF", "NVIDIA_VISIBLE_DEVICES", "PYTHONHASHSEED",
    "PYTHONOPTIMIZE", "PYTHONPATH", "PYTHONUTF8", "SLURM_CLUSTER_NAME", "SLURM_CPUS_PER_TASK", "SLURM_JOB_ID", "SLURM_JOB_NODELIST",
    "SLURM_JOB_NUM_NODES", "SLURM_JOB_PARTITION", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_RESTART_COUNT",
    "TP_SOCKET_IFNAME",
    "PBS_JOBID", "LSB_JOBID", "TOKENIZERS_PARALLELISM", "APPTAINER_CONTAINER", "SINGULARITY_CONTAINER",
)  # fmt: skip

DETERMINISM_VARIABLES = (
    # libraries below torch: threads, instruction sets, kernels, workspaces
    "CUBLAS_", "CUBLASLT_", "TORCH_CUBLAS", "DNNL_", "KMP_", "MKL_", "OMP_", "ONEDNN_", "OPENBLAS_",
    # choices of torch itself: instruction set, TF32, which library, kernels tuned by measurement
    "ATEN_", "PYTORCH_TENSOREXPR", "PYTORCH_TUNABLEOP_", "TORCH_ALLOW_TF32_", "TORCH_BLAS_PREFER_", "TORCH_CUDNN_",
    "TORCH_LINALG_PREFER_", "TORCH_LINEAR_", "TORCH_MKLDNN_", "TORCH_PYTHON_NATIVE_",
    # compilers that a user's own model may call
    "PYTORCH_NVFUSER", "TORCHDYNAMO_", "TORCHINDUCTOR_", "TORCH_JIT_", "TRITON_",
)  # fmt: skip
"""Prefixes of names that can change a bit; most of TORCH_ and PYTORCH_ only logs, debugs or allocates."""

DETERMINISM_NAMES = (
    "CUDA_FORCE_PTX_JIT", "DISABLE_ADDMM_CUDA_LT", "GLIBC_TUNABLES", "LD_AUDIT", "LD_PRELOAD", "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_JIT",
    "TORCH_DISABLE_NATIVE_JIT",
)  # fmt: skip
"""Whole names that can change a bit: GLIBC_TUNABLES selects variants of libm, LD_PRELOAD replaces any function.

LD_LIBRARY_PATH is recorded only: what it makes a process load is digested by content (`mapped_libraries`).
"""

NOT_NUMERIC = (
    "OMP_PROC_BIND", "OMP_PLACES", "KMP_AFFINITY", "OMP_DISPLAY_", "MKL_VERBOSE", "DNNL_VERBOSE", "ONEDNN_VERBOSE",
    "CUBLAS_LOG", "CUBLASLT_LOG_", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TRITON_HOME", "TRITON_DUMP_DIR", "TRITON_PRINT_", "TORCH_CUDNN_V8_API_DEBUG",
)  # fmt: skip
"""Exceptions: these only place threads, name a cache, or log."""

LOADS_CODE = re.compile(r"PRELOAD|TOOL|LIBRAR|PATH|DIR|FILE")
PLAIN_VALUE = re.compile(r"[A-Za-z0-9_.,:;=+-]*")
"""Without a slash, so it cannot be a path."""


def variables_kept(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that are recorded in environment.json, by name."""
    return {name: environment[name] for name in sorted(environment) if is_kept(name, environment[name])}


def is_kept(name: str, value: str) -> bool:
    """Whether a variable is recorded: its name is allowed, and neither name nor value is a secret."""
    allowed = name in ALLOWED_NAMES or name.startswith(ALLOWED_PREFIXES)
    return allowed and not is_secret(name, value)


def numeric_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that may change a bit, by name; no secrets, because run.json records them."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if (name.startswith(DETERMINISM_VARIABLES) or name in DETERMINISM_NAMES)
        and not name.startswith(NOT_NUMERIC)
        and not is_secret(name, value)
    }


def with_recorded_variables(environment: Mapping[str, str], recorded: Mapping[str, str]) -> dict[str, str]:
    """`environment` with its numeric variables replaced by those that a run recorded.

    The run may be a stranger's, so variables that could load a library or name a file are not taken over.
    """
    kept = {name: value for name, value in environment.items() if not numeric_variables({name: value})}
    return kept | {name: value for name, value in recorded.items() if is_harmless(name, value)}


def is_harmless(name: str, value: str) -> bool:
    """Whether a recorded variable only selects among what is installed here."""
    is_numeric = bool(numeric_variables({name: value}))
    return is_numeric and not LOADS_CODE.search(name) and bool(PLAIN_VALUE.fullmatch(value))
