"""The installed distributions that a user's model loads, for the fingerprint.

`importlib.metadata` loads modules that a user's file may hide: import this module only while imports are recorded.
"""

import hashlib
import re
import sys
from functools import cache
from importlib import metadata

from llmrun.provenance.installed import records_below

DEPENDENCIES = (
    "torch", "typer", "pydantic", "rich", "pyyaml", "numpy", "tokenizers", "psutil", "nvidia-ml-py", "tensorboard", "gitpython",
    "zstandard",
)  # fmt: skip
"""The packages that llmrun itself depends on, as in pyproject.toml."""


def distributions_of(paths: set[str]) -> dict[str, dict[str, str]]:
    """The distributions that installed these files, by name: `version`, and `code`, the sha256 of its code as stated.

    Without llmrun and what it depends on: a process of llmrun loads these with any model.
    """
    found = {}
    for directory in sys.path:
        for identity, sums in records_below(directory).items() if directory else ():
            name, _, version = identity.rpartition("-")
            if _normalised(name) not in _needed_anyway() and not paths.isdisjoint(sums):
                found[name] = {"version": version, "code": _digest_of(sums, directory)}
    return found


@cache
def _needed_anyway() -> frozenset[str]:
    """llmrun, its dependencies and theirs, as the metadata of the installed ones states them; normalised names."""
    found, waiting = {"llmrun"}, [_normalised(name) for name in DEPENDENCIES]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _requirements_of(name)
    return frozenset(found)


def _requirements_of(name: str) -> list[str]:
    """The packages that an installed one requires, without those of its extras; empty if it is not installed."""
    try:
        stated = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []
    without_extras = [line for line in stated if "extra ==" not in line]
    return [_normalised(found[0]) for line in without_extras if (found := NAME.match(line))]


NAME = re.compile(r"[A-Za-z0-9._-]+")


def _normalised(name: str) -> str:
    """A name as PEP 503 compares it, with underscores."""
    return re.sub(r"[-_.]+", "_", name).lower()


def _digest_of(sums: dict[str, str], directory: str) -> str:
    """sha256 over the stated digests of a distribution's code, wherever it is installed; byte code does not count."""
    lines = [
        f"{path.removeprefix(directory)} {stated}"
        for path, stated in sorted(sums.items())
        if not path.endswith(".pyc")
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
