"""Imports the user's own model into this process: where its modules are looked up, and which packages it needs."""

import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from llmrun.config.resolve import factory_call
from llmrun.config.schema import Config
from llmrun.core.model.factory import FactorySpec
from llmrun.core.model.facts import FactoryCall
from llmrun.errors import InputError, Place
from llmrun.machine import MODEL
from llmrun.provenance.distributions import distributions_of
from llmrun.provenance.imports import ImportRecorder


@dataclass(frozen=True)
class ModelImport:
    """A model to import.  import_root: directory in which its modules are looked up after the installed packages."""

    call: FactoryCall
    import_root: str

    @classmethod
    def of(cls, config: Config) -> "Self | None":
        """The import of a resolved config; None for the built-in model."""
        if config.model.factory is None:
            return None
        assert config.model.import_root is not None, "the config must be resolved"
        return cls(factory_call(config), config.model.import_root)

    @classmethod
    def of_environment(cls, variables: Mapping[str, str]) -> "Self | None":
        """The import that the launcher asks for; None for the built-in model."""
        if MODEL not in variables:
            return None
        document = json.loads(variables[MODEL])
        return cls(FactoryCall(**document["call"]), document["import_root"])


_packages: dict[str, dict[str, str]] = {}


def packages() -> dict[str, dict[str, str]]:
    """The installed packages that the user's model needs, by name: version and digest of their code; empty for none."""
    return dict(_packages)


_files: set[str] = set()


def own_files() -> frozenset[str]:
    """Paths of the user's files that the model's import has executed; empty for the built-in model."""
    return frozenset(_files)


def import_model(model: ModelImport, spec: FactorySpec | None = None) -> FactorySpec:
    """Import the factory and read its facts.  Notes the packages and files that this has loaded.

    Raises InputError.
    """
    open_import_root(model)
    recorder = ImportRecorder.install()
    n_files = len(recorder.files)
    spec = FactorySpec(model.call) if spec is None else spec
    _ = spec.facts
    _files.clear()
    _files.update(recorder.files[n_files:])
    _packages.clear()
    _packages.update(distributions_of(recorder.installed_files()))
    return spec


def shadowed_files(root: Path) -> tuple[str, ...]:
    """The Python files in a directory whose names other imported modules have."""
    found = []
    for path in sorted(root.glob("*.py")):
        module = sys.modules.get(path.stem)
        file = getattr(module, "__file__", None)
        if (
            module is not None
            and path.stem != "__main__"
            and (file is None or Path(file).resolve() != path.resolve())
        ):
            found.append(path.name)
    return tuple(found)


def open_import_root(model: ModelImport) -> None:
    """Look modules up in the model's directory, after the standard library and the installed packages.

    Raises InputError if the directory does not exist, or if the factory's module there has the name of another one.
    """
    root = model.import_root
    if not Path(root).is_dir():
        raise InputError(
            f"model.import_root must be a directory, got {root}",
            where=Place(key="model.import_root"),
            hints=["`--set model.import_root=DIR` names the directory that the factory's module is in"],
        )
    drop_working_directory()
    if root not in sys.path:
        sys.path.append(root)
        importlib.invalidate_caches()
    refuse_other_module(model)


def drop_working_directory() -> None:
    """Take the working directory out of `sys.path` if Python has put it first (`python -m llmrun`)."""
    if not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109
        del sys.path[0]


def refuse_other_module(model: ModelImport) -> None:
    """Raises InputError if the factory's package is in the model's directory, and another one of this name is imported."""
    name = model.call.factory.partition(":")[0].partition(".")[0]
    root = Path(model.import_root)
    own = [path for path in (root / f"{name}.py", root / name / "__init__.py") if path.exists()]
    if not own:
        return
    try:
        found = importlib.util.find_spec(name)
    except ValueError:  # of `__main__`, which has no spec
        found = None
    origin = None if found is None else found.origin
    if origin is None or not Path(origin).exists() or Path(origin).resolve() != own[0].resolve():
        raise InputError(
            f"the name {name} is taken: Python imports {origin or 'another module'}, not {own[0]}",
            where=Place(key="model.factory"),
            hints=[f"rename {own[0]}"],
        )
