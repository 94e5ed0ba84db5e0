"""What a worker would be: environment and imported source files, as JSON on standard output.

`python -m llmrun.train.probe cpu|cuda`, started in exactly the environment of a worker.  `environment` may change bits
and is digested; `recorded` only moves bytes or names the machine.
"""

import hashlib
import json
import os
import platform
import sys
import sysconfig
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import llmrun.train.session
import llmrun.train.worker  # noqa: F401  imported so that its source is seen
from llmrun.machine import cpu_flags, cpu_vendor, visible_gpus
from llmrun.provenance.environment import is_secret
from llmrun.provenance.variables import numeric_variables

TRANSPORT_VARIABLES = ("NCCL_", "TORCH_NCCL_", "GLOO_", "UCX_", "FI_")


def probe(device: str) -> dict[str, Any]:
    """The three parts for a run on `device`: environment, recorded, source_files (name -> sha256)."""
    return {"environment": environment(device), "recorded": recorded(), "source_files": source_files()}


def environment(device: str) -> dict[str, Any]:
    """What may change a bit: build of torch, libraries, devices, instruction set, variables.

    What belongs to GPUs counts only for a run on GPUs.
    """
    on_gpu = device == "cuda" and torch.cuda.is_available()
    return {
        "torch": torch.__version__,
        "torch_git": torch.version.git_version,
        "cuda": torch.version.cuda if on_gpu else None,
        "cublas": _cublas() if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,  # type: ignore[no-untyped-call]
        "devices": sorted(
            {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count() if on_gpu else 0)}
        ),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "cpu_vendor": cpu_vendor(),
        "cpu_flags": cpu_flags(),
        "libraries": _libraries(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "variables": numeric_variables(os.environ),
    }


def _cublas() -> str | None:
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
        "cuda_devices": torch.cuda.device_count(),
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(TRANSPORT_VARIABLES) and not is_secret(name, value)
        },
    }


def source_files() -> dict[str, str]:
    """sha256 of every imported source file that belongs to llmrun or to the user, by its import path.

    Left out is what was installed (named by `pip freeze`) or belongs to Python itself.
    """
    roots = {
        Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    found: dict[str, str] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        # torch.ops and torch.classes name files that do not exist, by a relative path
        if file is None or not file.endswith(".py") or not Path(file).is_absolute():
            continue
        path = Path(file).resolve()
        ours = name == "llmrun" or name.startswith("llmrun.")
        if ours or not any(path.is_relative_to(root) for root in roots):
            found[_import_path(name, path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return dict(sorted(found.items()))


def _import_path(name: str, path: Path) -> str:
    """`llmrun/train/step.py` for llmrun.train.step, wherever it is installed."""
    if name == "__main__":
        spec = getattr(sys.modules[name], "__spec__", None)
        name = spec.name if spec is not None else path.stem
    parts = name.split(".")
    return "/".join([*parts, "__init__.py"] if path.name == "__init__.py" else [*parts[:-1], path.name])


if __name__ == "__main__":
    json.dump(probe(sys.argv[1]), sys.stdout)
