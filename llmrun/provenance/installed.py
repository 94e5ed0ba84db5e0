"""Whether a file is part of Python's standard library, or unchanged since a distribution installed it.

The RECORD of a distribution states the sha256 of every file that it installed.  `pip freeze` names only versions; the
RECORD shows whether a file below site-packages was edited.
"""

# ruff: noqa: PTH116, PTH118, PTH120, PTH123, PTH206
# runs for each of two thousand modules: a Path costs more than the work

import base64
import hashlib
import os
import sys
from functools import cache
from pathlib import Path

SITE_DIRECTORIES = ("site-packages", "dist-packages")
CODE_ENDINGS = (".py", ".so", ".pth", ".pyc")
STANDARD_LIBRARY = os.path.dirname(os.path.realpath(os.__file__))


def is_standard(path: str) -> bool:
    """Whether a file belongs to Python itself, which the version of Python identifies."""
    return _holds_standard(os.path.dirname(path))


@cache
def _holds_standard(directory: str) -> bool:
    real = os.path.realpath(directory)
    if real != STANDARD_LIBRARY and not real.startswith(STANDARD_LIBRARY + os.sep):
        return False
    return not any(part in SITE_DIRECTORIES for part in real[len(STANDARD_LIBRARY) :].split(os.sep))


def recorded_sha256(path: str) -> str | None:
    """The sha256 in hex that a RECORD states for a file; "" if it states none, None if no RECORD lists the file."""
    for directory in sys.path:
        if path.startswith(directory) and directory:
            stated = _sums_below(directory).get(path)
            if stated is not None:
                return stated
    return None


@cache
def _sums_below(directory: str) -> dict[str, str]:
    """sha256 of each code file of the distributions in a site directory, by absolute path."""
    return {path: stated for sums in records_below(directory).values() for path, stated in sums.items()}


@cache
def records_below(directory: str) -> dict[str, dict[str, str]]:
    """`_sums_in` of each distribution in a site directory, by `name-version`."""
    records = Path(directory).glob("*.dist-info/RECORD")
    return {record.parent.name.removesuffix(".dist-info"): _sums_in(record, directory) for record in records}


def _sums_in(record: Path, directory: str) -> dict[str, str]:
    """The digests of one distribution; empty if its RECORD cannot be read."""
    try:
        text = record.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, _, rest = line.rpartition(",")[0].rpartition(",")
        name = name.strip('"')
        if name.endswith(CODE_ENDINGS) and "llmrun" not in name.split("/")[0]:
            found[os.path.join(directory, name)] = _hex(rest)
    return found


def _hex(stated: str) -> str:
    """`sha256=BASE64` as hex; empty for any other algorithm."""
    algorithm, _, text = stated.partition("=")
    if algorithm != "sha256":
        return ""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex()


def is_as_installed(path: str) -> bool:
    """Whether a file has the content that an installed distribution states for it."""
    stated = recorded_sha256(path)
    if stated is None:
        return False
    try:
        stat = os.stat(path)
        return stated == _sum_of(
            path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
        )
    except OSError:
        return False


@cache
def _sum_of(path: str, *_identity: int) -> str:
    """sha256 of a file in hex; read once in a process while the identity of the file is unchanged."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
