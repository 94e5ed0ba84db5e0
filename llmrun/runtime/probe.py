"""The probe: environment and imported code of a worker, as JSON on a file descriptor.

`llmrun.runtime.probe cpu|cuda`, run in a fork of the agent from which workers are forked later.  It sets the
determinism switches as a worker does, so that both load the same libraries.  `environment` may change bits and is
digested; `recorded` only moves bytes or names the machine.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

import llmrun.runtime.session
import llmrun.runtime.worker  # noqa: F401  imported so that its source is seen
from llmrun.core.determinism import set_float_mode, use_deterministic_kernels
from llmrun.machine import ANSWER, RANKS, visible_gpus
from llmrun.provenance.code import numeric_files
from llmrun.provenance.imports import ImportRecorder
from llmrun.provenance.mapped_libraries import FileSum
from llmrun.provenance.redaction import is_secret
from llmrun.runtime.environment import environment
from llmrun.runtime.model_import import ModelImport, import_model, own_files

TRANSPORT_VARIABLES = ("NCCL_", "TORCH_NCCL_", "GLOO_", "UCX_", "FI_")


def probe(device: str, known: Mapping[str, FileSum] | None = None) -> dict[str, Any]:
    """Environment, recorded facts and source files (import path -> digest) of a worker on `device`.

    known: sums of library files, by path.
    """
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    set_float_mode()
    use_deterministic_kernels()
    on_gpu = device == "cuda" and torch.cuda.is_available()
    count = torch.cuda.device_count() if on_gpu else 0
    indexes = range(min(count, int(os.environ.get(RANKS, count))))
    model = ModelImport.of_environment(os.environ)
    if model is not None:
        import_model(model)
    libraries = dict(known or {})
    found = environment(indexes, libraries)
    files = {path: [file.sha256, *file.identity] for path, file in libraries.items()}
    return {
        "environment": found,
        "recorded": {**recorded(), "mapped_files": files, **own_paths()},
        "source_files": source_files(),
    }


def own_paths() -> dict[str, dict[str, str]]:
    """The files of the user's own model, by import path, as `own_files`; empty for the built-in model."""
    files = own_files()
    found = {name: path for name, path in ImportRecorder.install().paths.items() if path in files}
    return {"own_files": found} if found else {}


def recorded() -> dict[str, Any]:
    """Facts that cannot change a bit: versions of transports, names of devices."""
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
    """Digest of every imported file that no distribution installed, and of every module of `llmrun/core/`."""
    return {**numeric_files(), **ImportRecorder.install().source_files()}


def main(arguments: Sequence[str]) -> None:
    """Write the answer to the file descriptor in LLMRUN_ANSWER_FD, as the last line of its file."""
    answer = json.dumps(probe(arguments[0]))
    os.write(int(os.environ[ANSWER]), f"\n{answer}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
