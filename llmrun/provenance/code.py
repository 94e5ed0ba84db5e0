"""Which source files can change bits: `llmrun/core/` and the user's own.

Of llmrun's files only those below `llmrun/core/` are in the code part of the fingerprint.  `core` imports nothing of
llmrun but itself and the leaf modules `errors` and `text` (a test holds that), so nothing outside it can change a
bit.  The digest of a source ignores comments, docstrings and formatting.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from llmrun.provenance.source_digest import source_digest

CORE = "llmrun/core/"


def is_numeric(name: str) -> bool:
    """Whether the source file `name` (an import path) belongs to the fingerprint."""
    return name.startswith(CORE) or not name.startswith("llmrun/")


@cache
def numeric_files() -> dict[str, str]:
    """Digest of every source of llmrun that can change bits, loaded or not, by import path.

    What is in the fingerprint does not depend on which of them a setting makes a worker load.
    """
    package = Path(__file__).parent.parent
    paths = sorted((package / "core").rglob("*.py"))
    return {
        f"llmrun/{path.relative_to(package).as_posix()}": source_digest(path.read_bytes()) for path in paths
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
