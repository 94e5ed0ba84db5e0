"""Records the code that a process imports, exactly as it is executed.

Python turns a file into a module in four places: the loaders of sources, of byte code without a source, of extension
modules and of zip archives.  The recorder hooks these four.  A source of the user's, or of a module of llmrun that can
change bits, is read once; its bytes are digested, and the same bytes are compiled: cached byte code (`__pycache__`) is
never used for it.  Python's standard library and unchanged files of installed distributions keep their loaders and
their byte code.

After `cover`, importing code that the fingerprint does not cover fails.
"""

# ruff: noqa: PTH100, PTH117, PTH118, PTH119, PTH120, PTH123, PTH208
# runs for each of two thousand modules: a Path costs more than the work

import hashlib
import os
import sys
import zipimport
from collections.abc import Mapping
from importlib import machinery
from types import CodeType, ModuleType
from typing import Any, ClassVar

from llmrun.provenance.code import is_numeric, source_digest
from llmrun.provenance.installed import is_as_installed, is_standard, recorded_sha256

BOOT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "launch", "boot.py")
"""The script that starts a child process and only installs the recorder."""

KNOWN_LOADERS = (
    machinery.BuiltinImporter,
    machinery.FrozenImporter,
    machinery.SourceFileLoader,
    machinery.SourcelessFileLoader,
    machinery.ExtensionFileLoader,
    zipimport.zipimporter,
)


class UncoveredImportError(ImportError):
    """Refused to import code that the run's fingerprint does not cover."""


def import_path(name: str, path: str) -> str:
    """`llmrun/core/step.py` for the module llmrun.core.step, wherever its file lies."""
    file = os.path.basename(path)
    parts = name.split(".")
    if name == "__main__":
        return file
    return "/".join([*parts, file] if file.startswith("__init__.") else [*parts[:-1], file])


def is_llmrun(name: str) -> bool:
    """Whether a module or an import path is part of llmrun; also the path finder of an editable installation."""
    return name == "llmrun" or name.startswith(("llmrun.", "llmrun/", "__editable___llmrun"))


class ImportRecorder:
    """Records the files that this process has executed as modules.

    files: paths of the user's files, in the order of execution.
    paths: the same by import path.
    trail: a file descriptor to which the path of each of the user's files is written before it runs; None for none.
    """

    current: ClassVar["ImportRecorder | None"] = None

    def __init__(self) -> None:
        self._executed: dict[str, set[str]] = {}
        self._own_modules: dict[str, str] = {}
        self._installed: dict[str, str] = {}
        self._seen_modules: set[str] = set()
        self._covered: Mapping[str, str] | None = None
        self.files: list[str] = []
        self.paths: dict[str, str] = {}
        self.trail: int | None = None

    @classmethod
    def install(cls) -> "ImportRecorder":
        """Start recording, once in a process; earlier imports are digested from their files as they are now."""
        if cls.current is None:
            cls.current = cls()
            _hook_loaders(cls.current)
            cls.current.sweep()
        return cls.current

    def source(self, name: str, path: str, content: bytes) -> None:
        """Record a source that is about to be compiled.  Raises UncoveredImportError."""
        self._note(import_path(name, path), path, source_digest(content))

    def binary(self, name: str, path: str, file: str | None = None) -> None:
        """Record byte code or an extension module that is about to be loaded.

        file: the archive that holds it, if any.
        Raises UncoveredImportError.
        """
        if recorded_sha256(path) is not None:
            self.from_distribution(name, path)
        elif not is_standard(path):
            self._note(import_path(name, path), path, _sha256_of(file or path))

    def from_distribution(self, name: str, path: str) -> None:
        """Record an installed file that is about to be loaded; it is digested if it was changed since."""
        self._installed[path] = name
        if self._covered is not None and not is_as_installed(path):
            self._note(import_path(name, path), path, _sha256_of(path))

    def own_module(self, name: str, path: str) -> None:
        """Record a module of llmrun that cannot change a bit, for the list of imported files."""
        self._own_modules[import_path(name, path)] = path

    def _note(self, key: str, path: str, digest: str) -> None:
        if self._covered is not None and self._covered.get(key) != digest:
            changed = "was changed after" if key in self._covered else "was not imported before"
            raise UncoveredImportError(
                f"cannot import {path}: it {changed} the run's fingerprint was computed", path=path
            )
        self._executed.setdefault(key, set()).add(digest)
        if is_llmrun(key):
            return
        self.files.append(path)
        self.paths[key] = path
        if self.trail is not None:
            os.write(self.trail, os.fsencode(f"executing {path}\n"))

    def sweep(self) -> None:
        """Record modules that were imported before the recorder, or by a loader that it does not hook."""
        before = not self._seen_modules
        for name, module in list(sys.modules.items()):
            if name in self._seen_modules:
                continue
            self._seen_modules.add(name)
            path = _file_of(module)
            if path == BOOT:
                continue
            loader = getattr(getattr(module, "__spec__", None), "loader", None)
            recorded = isinstance(loader, KNOWN_LOADERS) or loader in KNOWN_LOADERS
            if path is None or (recorded and not before) or (name == "__main__" and not before):
                continue
            spec = getattr(module, "__spec__", None)
            self._swept(name if name != "__main__" or spec is None else spec.name, path)

    def _swept(self, name: str, path: str) -> None:
        """Record one module whose import was not seen; its file may be gone by now."""
        try:
            if is_llmrun(name) and not is_numeric(import_path(name, path)):
                self.own_module(name, path)
            elif not path.endswith(".py"):
                self.binary(name, path)
            elif recorded_sha256(path) is not None:
                self.from_distribution(name, path)
            elif not is_standard(path):
                self.source(name, path, _read(path))
        except OSError:
            return

    def source_files(self) -> dict[str, str]:
        """Digests by import path of all executed files except Python's own and unchanged installed ones."""
        self.sweep()
        found = {key: _joined(digests) for key, digests in self._executed.items()}
        found |= {key: source_digest(_read(path)) for key, path in self._own_modules.items()}
        for path, name in self._installed.items():
            if not is_as_installed(path):
                found.setdefault(import_path(name, path), _sha256_of(path))
        found |= _site_files()
        return {key: found[key] for key in sorted(found) if not key.startswith("__editable___llmrun")}

    def installed_files(self) -> set[str]:
        """Paths of the executed files that installed distributions list."""
        self.sweep()
        return set(self._installed)

    def cover(self, covered: Mapping[str, str]) -> None:
        """Allow only imports of code in `covered` (import path -> digest) from now on."""
        self._covered = dict(covered)


def _hook_loaders(recorder: ImportRecorder) -> None:
    """Make Python's four file loaders report to the recorder."""
    sources, extensions = machinery.SourceFileLoader, machinery.ExtensionFileLoader
    sourceless, archives = machinery.SourcelessFileLoader, zipimport.zipimporter
    cached_code, byte_code, zipped = sources.get_code, sourceless.get_code, archives.get_code
    create_extension = extensions.create_module

    def source_code(loader: Any, name: str) -> CodeType | None:
        path = loader.get_filename(name)
        if is_standard(path):
            return cached_code(loader, name)
        if is_llmrun(name):
            if not is_numeric(import_path(name, path)):
                recorder.own_module(name, path)
                return cached_code(loader, name)
        elif recorded_sha256(path) is not None:
            recorder.from_distribution(name, path)
            return cached_code(loader, name)
        content = loader.get_data(path)
        recorder.source(name, path, content)
        code: CodeType = loader.source_to_code(content, path)
        return code

    def sourceless_code(loader: Any, name: str) -> CodeType | None:
        recorder.binary(name, loader.get_filename(name))
        return byte_code(loader, name)

    def zipped_code(loader: Any, name: str) -> CodeType:
        recorder.binary(name, loader.get_filename(name), loader.archive)
        return zipped(loader, name)

    def extension(loader: Any, spec: machinery.ModuleSpec) -> ModuleType:
        recorder.binary(spec.name, loader.path)
        return create_extension(loader, spec)

    for owner, attribute, function in (
        (sources, "get_code", source_code),
        (sourceless, "get_code", sourceless_code),
        (archives, "get_code", zipped_code),
        (extensions, "create_module", extension),
    ):
        setattr(owner, attribute, function)


def _site_files() -> dict[str, str]:
    """Digests of `.pth` files with lines that `site` executes, except unchanged installed ones."""
    found: dict[str, str] = {}
    for directory in sys.path:
        names = [name for name in _listing(directory) if name.endswith(".pth")]
        for path in (os.path.join(directory, name) for name in sorted(names)):
            content = _read(path)
            runs = any(line.startswith((b"import ", b"import\t")) for line in content.splitlines())
            if runs and not is_as_installed(path) and b"__editable___llmrun" not in content:
                found[f"site/{os.path.basename(path)}"] = hashlib.sha256(content).hexdigest()
    return found


def _listing(directory: str) -> list[str]:
    """Names in an entry of `sys.path`; empty if it is not a directory."""
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _file_of(module: Any) -> str | None:
    """The absolute path of a module's file; torch.ops and torch.classes name relative ones that do not exist."""
    path = getattr(module, "__file__", None)
    return path if isinstance(path, str) and os.path.isabs(path) else None


def _joined(digests: set[str]) -> str:
    """One digest of all contents that were executed under one name; nearly always there is one."""
    return (
        next(iter(digests))
        if len(digests) == 1
        else hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
    )


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _sha256_of(path: str) -> str:
    return hashlib.sha256(_read(path)).hexdigest()
