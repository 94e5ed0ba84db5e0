"""Attempts by libraries that a process loads beside its own or instead of them."""

import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from falsify import native
from falsify.attempt import EQUAL, HONEST, OTHER, Attempt, Pair, variant
from falsify.ground import BIN, NotHereError, Place, replace_text

SEEN = "a library is recorded by its content, undone, or seen by what it does to fixed computations"
RECORDED = "LD_PRELOAD is part of the environment"


def _torch_library(name: str) -> Path:
    """A library in torch's own folder."""
    return BIN.parent / "lib" / f"python{_python_version()}" / "site-packages" / "torch" / "lib" / name


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _preload(source: str, config: str = "bf16", variable: str = "LD_PRELOAD") -> Callable[[Place], Pair]:
    """A library that is loaded before all others."""

    def play(place: Place) -> Pair:
        file = native.library(place.path / "lib" / "probe.so", source, "-ldl")
        return variant(config, env={variable: str(file)})(place)

    return play


def _same_path_other_content(place: Place) -> Pair:
    """A preloaded library that is another one in the second run, under the same path."""
    file = place.path / "lib" / "probe.so"
    env = {"LD_PRELOAD": str(native.library(file, native.constructor(native.NOTHING)))}
    before = place.train(name="reference", env=env)
    assert before.code == 0, before.err
    native.library(file, native.constructor(native.ROUND_UP))
    return Pair(before.run, place.train(env=env))


def _shadow(statement: str, config: str) -> Callable[[Place], Pair]:
    """A libgomp on LD_LIBRARY_PATH that changes the processor's float mode and is torch's own otherwise."""

    def play(place: Place) -> Pair:
        real = _torch_library("libgomp.so.1")
        if not real.exists():
            raise NotHereError("torch has no libgomp of its own")
        native.instead_of(place.path / "lib" / real.name, real, native.constructor(statement))
        return variant(config, env={"LD_LIBRARY_PATH": str(place.path / "lib")})(place)

    return play


def _other_math(place: Place) -> Pair:
    """A libm on LD_LIBRARY_PATH with another exp and cos."""
    folders = (Path("/lib") / f"{platform.machine()}-linux-gnu", Path("/lib64"), Path("/usr/lib"))
    real = next((folder / "libm.so.6" for folder in folders if (folder / "libm.so.6").exists()), None)
    if real is None:
        raise NotHereError("no libm.so.6 in its usual place")
    native.instead_of(place.path / "lib" / real.name, real, native.MATH)
    return variant(env={"LD_LIBRARY_PATH": str(place.path / "lib")})(place)


def _empty_path(place: Place) -> Pair:
    """LD_LIBRARY_PATH with nothing in it."""
    (place.path / "lib").mkdir()
    return variant(env={"LD_LIBRARY_PATH": str(place.path / "lib")})(place)


def _filtered(rules: str) -> Callable[[Place], Pair]:
    """A command under a filter of system calls."""

    def play(place: Place) -> Pair:
        return variant(prefix=[str(native.program(place.path / "filter", rules))])(place)

    return play


def clone_installation(place: Place) -> Place:
    """The same place with an installation of its own: hard links, so a file may be replaced but never written."""
    clone = place.path / "venv"
    done = subprocess.run(
        ["cp", "-al", str(BIN.parent), str(clone)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise NotHereError("the installation cannot be hard-linked from here")
    return replace(place, python=clone / "bin" / "python")


def site_packages(place: Place) -> Path:
    """Where the installation of a place keeps its packages."""
    return place.python.parent.parent / "lib" / f"python{_python_version()}" / "site-packages"


def _replaced_library(place: Place) -> Pair:
    """Torch's own libgomp replaced on disk."""
    place = clone_installation(place)
    file = site_packages(place) / "torch" / "lib" / "libgomp.so.1"
    if not file.exists():
        raise NotHereError("torch has no libgomp of its own")
    native.instead_of(file, file, native.constructor(native.ROUND_UP))
    return variant()(place)


def _edited_package(place: Place) -> Pair:
    """A line of an installed package edited in place."""
    place = clone_installation(place)
    file = site_packages(place) / "torch" / "nn" / "modules" / "linear.py"
    line = "return F.linear(input, self.weight, self.bias)"
    text = file.read_text()
    assert line in text
    replace_text(file, text.replace(line, f"{line} * 1.125"))
    return variant()(place)


ATTEMPTS = (
    Attempt("preload-expf", "LD_PRELOAD of a library with another expf", OTHER, RECORDED, _preload(native.EXPF)),
    Attempt("preload-memcpy", "LD_PRELOAD of a library with another memcpy", OTHER, RECORDED, _preload(native.MEMCPY)),
    Attempt("preload-clock", "LD_PRELOAD of a library that sets the clock back three years", OTHER, RECORDED, _preload(native.FAKE_CLOCK)),
    Attempt("preload-content", "the preloaded library is another one under the same path", HONEST, SEEN, _same_path_other_content),
    Attempt("audit", "LD_AUDIT of a library that rounds upward", HONEST, SEEN, _preload(native.AUDIT + native.constructor(native.ROUND_UP), variable="LD_AUDIT")),
    Attempt("library-path-flush", "a libgomp on LD_LIBRARY_PATH flushes denormal numbers to zero", HONEST, SEEN, _shadow(native.FLUSH, "denormal")),
    Attempt("library-path-round", "a libgomp on LD_LIBRARY_PATH rounds upward", HONEST, SEEN, _shadow(native.ROUND_UP, "bf16")),
    Attempt("library-path-math", "a libm on LD_LIBRARY_PATH has another exp and cos", HONEST, SEEN, _other_math),
    Attempt("library-path-empty", "LD_LIBRARY_PATH names an empty directory", EQUAL, "no library is another one", _empty_path),
    Attempt("library-replaced", "torch's own libgomp is replaced on disk and rounds upward", HONEST, SEEN, _replaced_library),
    Attempt("package-edited", "a line of torch's Linear is edited on disk", HONEST, SEEN, _edited_package),
    Attempt("no-amx", "a filter of system calls refuses AMX", HONEST, SEEN, _filtered(native.NO_AMX)),
    Attempt("no-jit-memory", "a filter of system calls refuses executable memory", HONEST, SEEN, _filtered(native.NO_EXECUTABLE_MEMORY)),
)  # fmt: skip
