"""Entry of every child process: `python -P -S .../launch/boot.py -m MODULE ARGUMENT…`.

The child must run what the launcher runs and nothing that happens to be around: neither the working directory (`-P`) nor
another installation of llmrun is an import root.  `-S` keeps `site` from running before the import recorder watches,
so that `.pth` files, `sitecustomize` and `usercustomize` are recorded like any other code.

Run by path, without a package: only the standard library may be imported at the top.
"""

# ruff: noqa: PTH100, PTH120, PTH121
# pathlib and all it imports would run before the recorder watches

import json
import os
import runpy
import site
import sys
from importlib.machinery import ModuleSpec, PathFinder

PACKAGE_DIRECTORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ANSWER = "LLMRUN_ANSWER_FD"
"""Variable with the file descriptor on which a probe answers."""

RECORDED_MODULES = ("llmrun.launch.agent", "llmrun.runtime.worker")
"""Processes that record what they import; workers and the probe are forks of the agent."""


class LauncherPackage:
    """A meta path finder for `llmrun` alone: the package directory that this file stands in."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """The spec of the launcher's own package; None for any other name."""
        if name != "llmrun":
            return None
        return PathFinder.find_spec(name, [os.path.dirname(PACKAGE_DIRECTORY)])


def import_roots() -> None:
    """Fix where modules come from: llmrun from the launcher's package, all else from PYTHONPATH and `site`.

    A directory of a user's model is to be added here, at the end of `sys.path`.
    """
    sys.meta_path.insert(0, LauncherPackage)


def main(arguments: list[str]) -> None:
    """Run a module as `python -m` would.  Exits with 1 if another llmrun was loaded already."""
    dash_m, module, *rest = arguments
    assert dash_m == "-m", "usage: boot.py -m MODULE ARGUMENT…"
    sys.argv = [module, *rest]
    import_roots()
    if module in RECORDED_MODULES:
        from llmrun.provenance.imports import ImportRecorder

        ImportRecorder.install().trail = answer_descriptor()
    site.main()
    import llmrun

    found = os.path.dirname(os.path.abspath(llmrun.__file__))
    if not os.path.samefile(found, PACKAGE_DIRECTORY):
        sys.exit(f"llmrun must be imported from {PACKAGE_DIRECTORY}, got {llmrun.__file__}")
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def answer_descriptor() -> int | None:
    """The file descriptor on which this process answers; None for all but a probe."""
    text = os.environ.get(ANSWER)
    return int(text) if text else None


def report(error: BaseException, descriptor: int) -> None:
    """Write the error that ended a probe and the file that raised it, as one JSON object on a line of its own."""
    file, trace = None, error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not name.startswith("<"):
            file = name
        trace = trace.tb_next
    if isinstance(error, ImportError | SyntaxError):
        file = getattr(error, "path", None) or getattr(error, "filename", None) or file
    answer = {"error": f"{type(error).__name__}: {error}", "file": file}
    os.write(descriptor, b"\n" + json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BaseException as error:
        if (answer := answer_descriptor()) is not None:
            report(error, answer)
        raise
