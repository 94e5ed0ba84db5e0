"""Attempts by byte code that does not belong to its source."""

import os
import py_compile
from collections.abc import Callable
from importlib.util import cache_from_source
from pathlib import Path

from falsify.attempt import EQUAL, HONEST, Attempt, Pair, variant
from falsify.ground import EDITED, Place, copy_package, numeric_source

CHECKED = "byte code is checked against its source, or not used"


def _compile(file: Path, target: Path, mode: py_compile.PycInvalidationMode) -> None:
    """Compile the edited source to `target`, and leave the original source as it was, to the nanosecond."""
    original, times = file.read_text(), file.stat()
    file.write_text(original.replace(*EDITED))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    py_compile.compile(str(file), str(target), doraise=True, invalidation_mode=mode)
    file.write_text(original)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def _stale(mode: py_compile.PycInvalidationMode) -> Callable[[Place], Pair]:
    """Byte code of an edited source of the same size and time beside the original source."""

    def play(place: Place) -> Pair:
        package = copy_package(place)
        file = numeric_source(package)
        _compile(file, Path(cache_from_source(str(file))), mode)
        return variant(env={"PYTHONPATH": str(package)})(place)

    return play


def _no_source(place: Place) -> Pair:
    """Edited byte code stands where the source was."""
    package = copy_package(place)
    file = numeric_source(package)
    _compile(file, file.with_suffix(".pyc"), py_compile.PycInvalidationMode.TIMESTAMP)
    file.unlink()
    return variant(env={"PYTHONPATH": str(package)})(place)


def _prefixed(*, is_stale: bool) -> Callable[[Place], Pair]:
    """Byte code in a directory that PYTHONPYCACHEPREFIX names."""

    def play(place: Place) -> Pair:
        package, cache = copy_package(place), place.path / "cache"
        file = numeric_source(package)
        if is_stale:
            target = cache / Path(cache_from_source(str(file))).parent.parent.relative_to("/")
            name = Path(cache_from_source(str(file))).name
            _compile(file, target / name, py_compile.PycInvalidationMode.TIMESTAMP)
        return variant(env={"PYTHONPATH": str(package), "PYTHONPYCACHEPREFIX": str(cache)})(place)

    return play


ATTEMPTS = (
    Attempt("stale-byte-code", "byte code of another source of the same size and time", HONEST, CHECKED, _stale(py_compile.PycInvalidationMode.TIMESTAMP)),
    Attempt("unchecked-byte-code", "byte code that tells Python not to look at its source", HONEST, CHECKED, _stale(py_compile.PycInvalidationMode.UNCHECKED_HASH)),
    Attempt("no-source", "a numeric module as byte code without source", HONEST, CHECKED, _no_source),
    Attempt("cache-prefix", "PYTHONPYCACHEPREFIX names an empty directory", EQUAL, "a place for byte code changes no bit", _prefixed(is_stale=False)),
    Attempt("cache-prefix-stale", "PYTHONPYCACHEPREFIX names a directory with stale byte code", HONEST, CHECKED, _prefixed(is_stale=True)),
)  # fmt: skip
