"""Which source files can change bits: llmrun's numeric modules and the user's own.

The probe lists the files that a worker really imported, by path relative to the place they are imported
from (`llmrun/core/step.py`, `my_model/net.py`), with their sha256.  Of llmrun's own files only the numeric
ones are digested: a better error message must not make a checkpoint refuse to load.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

NUMERIC_PACKAGES = ("train", "reduce", "model")
"""Packages of llmrun in which every file may change bits."""

NUMERIC_MODULES = (
    "streams",  # keys of all random streams
    "lanes",  # who adds what, in which order
    "config/batch",  # M, A, V, steps
    "data/order",  # which window comes when
    "splitmix",  # the mixer under order and digests
    "data/order_file",  # the same, printed
    "data/windows",  # which tokens a window holds
    "data/shards",  # how tokens are read
    "ledger/digest",  # what the ledger says about a tensor
)
"""Single modules of llmrun that may change bits, in packages that otherwise may not."""


OPERATIONAL_MODULES = (
    "train/probe",  # looks, computes nothing
    "train/canary",  # its results are in the environment part
    "train/environment",  # looks, computes nothing
    "train/self_check",  # compares with the orders
    "train/worker",  # entry and outcome
    "train/recorder",  # writes down what was computed
    "train/progress",  # how far a rank has come
    "train/stopping",  # requests to stop
    "train/saved_states",  # compares a replay with checkpoints
    "train/trace",  # digests what modules hand on, and changes none of it
)
"""Modules in numeric packages that cannot change bits."""


def is_numeric(name: str) -> bool:
    """Whether the source file `name` belongs to the fingerprint: all but llmrun's operational modules."""
    parts = name.removesuffix(".py").split("/")
    if parts[0] != "llmrun":
        return True
    module = "/".join(parts[1:])
    if module in OPERATIONAL_MODULES:
        return False
    return (len(parts) > 2 and parts[1] in NUMERIC_PACKAGES) or module in NUMERIC_MODULES


def source_digest(source: bytes) -> str:
    """The digest of one source file, in hex."""
    return hashlib.sha256(source).hexdigest()


@cache
def numeric_files() -> dict[str, str]:
    """Digest of every source of llmrun that can change bits, loaded or not, by import path.

    What is in the fingerprint does not depend on which of them a setting makes a worker load.
    """
    package = Path(__file__).parent.parent
    names = {f"llmrun/{path.relative_to(package).as_posix()}": path for path in package.rglob("*.py")}
    return {
        name: source_digest(path.read_bytes()) for name, path in sorted(names.items()) if is_numeric(name)
    }


def code_preimage(source_files: Mapping[str, str]) -> dict[str, str]:
    """The preimage of the fingerprint's part `code`: path -> sha256 of each numeric source file."""
    return {name: digest for name, digest in sorted(source_files.items()) if is_numeric(name)}


def imported_of(names: list[str], source_files: Mapping[str, str]) -> list[str]:
    """Those of `names` (paths in a repository) that a worker imports."""
    return [
        name
        for name in names
        if any(name == source or name.endswith(f"/{source}") for source in source_files)
    ]
