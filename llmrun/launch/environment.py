"""The environment variables of workers: what must be pinned before a process starts.

The probe gets the same ones, so that what it reports is what a worker sees.  Of NCCL's variables only the network
interface is set: our sums are done by our own code, so what only moves bytes cannot change them.
"""

import os
from collections.abc import Mapping

from llmrun.launch.loopback import INTERFACE_VARIABLES, TORCHRUN_OPTIONS, find_loopback
from llmrun.machine import RANKS

CUBLAS_WORKSPACE = ":4096:8"
"""Eight buffers of 4 MiB per stream: one of the two settings that cuBLAS calls deterministic."""


def worker_environment(
    base: Mapping[str, str], threads_per_rank: int, ranks: int | None = None
) -> dict[str, str]:
    """The variables of every worker, on top of `base` (those of the launcher).

    ranks: number of ranks on this host; the probe looks at as many GPUs.  None: at all that are visible.
    An empty entry of PYTHONPATH means the working directory to Python, and is left out: `PYTHONPATH=$PYTHONPATH:DIR`
    has one if the variable was not set.
    Raises RefusedError if this machine has no loopback interface.
    """
    threads = str(threads_per_rank)
    pinned = {
        "OMP_NUM_THREADS": threads,  # torchrun sets it only where D > 1: bits would differ at D = 1
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "CUBLAS_WORKSPACE_CONFIG": CUBLAS_WORKSPACE,
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONHASHSEED": "0",
        "PYTHONSAFEPATH": "1",  # no `profile.py` of the working directory is imported in place of Python's own
        "PYTHONUNBUFFERED": "1",  # the last words of a killed worker reach its log
        "PYTHONFAULTHANDLER": "1",  # so does the Python stack of one that crashed
        "PYTHONUTF8": "1",  # file names and text files are UTF-8 in every locale
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "0",  # without it torch looks `localhost` up for a free port
        **dict.fromkeys(INTERFACE_VARIABLES, find_loopback().interface),
    }
    if ranks is not None:
        pinned[RANKS] = str(ranks)
    if "PYTHONPATH" in base:
        pinned["PYTHONPATH"] = os.pathsep.join(filter(None, base["PYTHONPATH"].split(os.pathsep)))
    kept = {name: value for name, value in base.items() if not name.startswith(TORCHRUN_OPTIONS)}
    return {**kept, **pinned}
