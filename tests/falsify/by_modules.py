"""Attempts by Python modules that stand where an import finds them first."""

import py_compile
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from falsify import native
from falsify.attempt import EQUAL, HONEST, Attempt, Pair, variant
from falsify.by_libraries import clone_installation, site_packages
from falsify.ground import ROOT, Place, edit, numeric_source

STDLIB = """
import pathlib as _p, sysconfig as _s
exec(compile(_p.Path(_s.get_path("stdlib"), "NAME.py").read_text(), "NAME.py", "exec"))
"""
"""Makes a shadow behave as the module that it hides."""
NO_ONEDNN = "import torch as _t; _t._C._set_mkldnn_enabled(False)\n"
"""For modules that are imported after torch."""
OTHER_COSINE = "import math as _m; _m.cos = (lambda cos: lambda x: 0.999 * cos(x))(_m.cos)\n"
"""Another learning rate, whenever it is imported."""

SAFE = "the working directory is not where workers import from"
OWN = "on PYTHONPATH it is the user's own module: digested, or refused"
LATE = "an installed start-up file is digested, refused, or not run"


def _shadow(name: str, payload: str) -> str:
    return STDLIB.replace("NAME", name) + payload


def _in_working_directory(name: str, payload: str) -> Callable[[Place], Pair]:
    def play(place: Place) -> Pair:
        (place.work / f"{name}.py").write_text(_shadow(name, payload))
        return variant()(place)

    return play


def _second_checkout(place: Place) -> Pair:
    """The command is run inside another checkout, which has other numbers."""
    shutil.copytree(ROOT / "llmrun", place.work / "llmrun")
    edit(numeric_source(place.work))
    return variant()(place)


def _on_path(fill: Callable[[Path], None]) -> Callable[[Place], Pair]:
    """Something in a directory that PYTHONPATH names."""

    def play(place: Place) -> Pair:
        folder = place.path / "path"
        folder.mkdir()
        fill(folder)
        return variant(env={"PYTHONPATH": str(folder)})(place)

    return play


def _source(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: _write(folder / f"{name}.py", text)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def _compiled(name: str, text: str) -> Callable[[Path], None]:
    """Byte code without a source."""

    def fill(folder: Path) -> None:
        source = folder.parent / f"{name}.py"
        source.write_text(text)
        py_compile.compile(str(source), str(folder / f"{name}.pyc"), doraise=True)

    return fill


def _extension(folder: Path) -> None:
    native.module(folder, "sitecustomize", native.ROUND_UP)


def _zipped(place: Place) -> Pair:
    """A module in an archive on PYTHONPATH."""
    archive = place.path / "modules.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("sitecustomize.py", OTHER_COSINE)
    return variant(env={"PYTHONPATH": str(archive)})(place)


def _numpy(folder: Path) -> None:
    """A package that hides numpy, is numpy, and changes a function of the standard library."""
    _write(
        folder / "numpy" / "__init__.py",
        "import importlib.machinery as _i, sys as _y\n"
        "_here = __path__[0].rpartition('/')[0]\n"
        "_real = _i.PathFinder.find_spec('numpy', [p for p in _y.path if p != _here])\n"
        "__path__[:] = _real.submodule_search_locations\n"
        "exec(compile(open(_real.origin).read(), _real.origin, 'exec'))\n" + OTHER_COSINE,
    )


def _user_site(place: Place) -> Pair:
    """Usercustomize in the user's own site-packages."""
    folder = (
        place.path / "base" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    )
    _write(folder / "usercustomize.py", OTHER_COSINE)
    return variant(env={"PYTHONUSERBASE": str(place.path / "base")})(place)


def _beside_config(place: Place) -> Pair:
    """Neither the directory of the config nor PYTHONSTARTUP is where workers import from."""
    (place.path / "profile.py").write_text(_shadow("profile", NO_ONEDNN))
    _write(place.path / "startup.py", OTHER_COSINE)
    return variant(env={"PYTHONSTARTUP": str(place.path / "startup.py")})(place)


def _installed(name: str, text: str) -> Callable[[Place], Pair]:
    """A file in the site-packages of an installation."""

    def play(place: Place) -> Pair:
        place = clone_installation(place)
        (site_packages(place) / name).write_text(text)
        return variant()(place)

    return play


ATTEMPTS = (
    Attempt("cwd-profile", "profile.py in the working directory switches oneDNN off", HONEST, SAFE, _in_working_directory("profile", NO_ONEDNN)),
    Attempt("cwd-random", "random.py in the working directory changes the learning rate", HONEST, SAFE, _in_working_directory("random", OTHER_COSINE)),
    Attempt("cwd-types", "types.py in the working directory changes the learning rate", HONEST, SAFE, _in_working_directory("types", OTHER_COSINE)),
    Attempt("cwd-llmrun", "another checkout of llmrun in the working directory, with other numbers", HONEST, SAFE, _second_checkout),
    Attempt("config-profile", "profile.py beside the config file, PYTHONSTARTUP", EQUAL, SAFE, _beside_config),
    Attempt("path-profile", "profile.py on PYTHONPATH switches oneDNN off", HONEST, OWN, _on_path(_source("profile", _shadow("profile", NO_ONEDNN)))),
    Attempt("path-profile-pyc", "profile.pyc without source on PYTHONPATH switches oneDNN off", HONEST, OWN, _on_path(_compiled("profile", _shadow("profile", NO_ONEDNN)))),
    Attempt("path-sitecustomize", "sitecustomize.py on PYTHONPATH changes the learning rate", HONEST, OWN, _on_path(_source("sitecustomize", OTHER_COSINE))),
    Attempt("path-sitecustomize-pyc", "sitecustomize.pyc without source on PYTHONPATH", HONEST, OWN, _on_path(_compiled("sitecustomize", OTHER_COSINE))),
    Attempt("path-extension", "sitecustomize as an extension module on PYTHONPATH rounds upward", HONEST, OWN, _on_path(_extension)),
    Attempt("path-zip", "sitecustomize in an archive on PYTHONPATH", HONEST, OWN, _zipped),
    Attempt("path-numpy", "a package on PYTHONPATH hides numpy", HONEST, OWN, _on_path(_numpy)),
    Attempt("path-pth", "a .pth file on PYTHONPATH", EQUAL, "Python does not read it there", _on_path(lambda folder: _write(folder / "x.pth", OTHER_COSINE))),
    Attempt("user-site", "usercustomize.py under PYTHONUSERBASE", HONEST, OWN, _user_site),
    Attempt("installed-pth", "a .pth file in site-packages changes the learning rate", HONEST, LATE, _installed("zz.pth", OTHER_COSINE)),
    Attempt("installed-sitecustomize", "sitecustomize.py in site-packages changes the learning rate", HONEST, LATE, _installed("sitecustomize.py", OTHER_COSINE)),
)  # fmt: skip
