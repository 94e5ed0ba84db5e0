"""environment.json: the machine, the software below us, and the variables that may matter.

Variables are kept by an allow-list of names, and never where a name speaks of a secret.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from llmrun.machine import host_facts

ENVIRONMENT_FORMAT = "llmrun-environment/1"

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

SECRET = re.compile(
    r"TOKEN|SECRET|PASS|PWD|CREDENTIAL|KEY|PRIVATE|JWT|AUTH|COOKIE|SIGNATURE|BEARER|(^|_)PAT($|_)",
    re.IGNORECASE,
)
NOT_SECRET = ("TOKENIZERS_PARALLELISM",)
SECRET_VALUE = re.compile(
    r"://[^/\s@]+@"  # credentials in an address
    r"|(?<![A-Za-z0-9])(gh[pousr]_|github_pat_|glpat-|sk-|AKIA)[A-Za-z0-9_-]{8}"  # keys that say what they are
)


def variables_kept(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that go on record, by name."""
    return {name: environment[name] for name in sorted(environment) if is_kept(name, environment[name])}


def is_kept(name: str, value: str) -> bool:
    """Whether a variable goes on record: allowed by name, and no secret by name or value."""
    allowed = name in ALLOWED_NAMES or name.startswith(ALLOWED_PREFIXES)
    return allowed and not is_secret(name, value)


def is_secret(name: str, value: str) -> bool:
    """Whether a variable speaks of a secret by its name, or holds a known kind of key or credentials in an address."""
    return bool((name not in NOT_SECRET and SECRET.search(name)) or SECRET_VALUE.search(value))


def environment_document(
    digested: Mapping[str, Any],
    recorded: Mapping[str, Any],
    worker_environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The content of environment.json.

    digested:  the preimage of the fingerprint's part `environment`, from the probe.
    recorded:  what the probe found beside it: driver, NCCL, …
    worker_environment: variables of a worker; by default those of this process.
    """
    variables = variables_kept(os.environ if worker_environment is None else worker_environment)
    return {
        "format": ENVIRONMENT_FORMAT,
        "digested": dict(digested),
        "recorded": dict(recorded),
        "machine": host_facts(),
        "variables": variables,
    }
