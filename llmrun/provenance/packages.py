"""The installed Python packages: `pip freeze`, or the installed metadata if pip fails."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from llmrun.provenance.redaction import without_credentials

TIMEOUT_S = 20.0

OUTPUT_BYTES_MAX = 16 * 1024 * 1024


@dataclass(frozen=True)
class Packages:
    """The installed packages, one `name==version` line each.

    why: why pip failed; empty if it did not.
    """

    lines: tuple[str, ...]
    source: Literal["pip freeze", "importlib.metadata"]
    why: str = ""

    @property
    def text(self) -> str:
        """The content of pip-freeze.txt; its first line names the source if it is not pip."""
        head = () if self.source == "pip freeze" else (f"# from {self.source}: {self.why}",)
        return "".join(f"{line}\n" for line in (*head, *self.lines))

    @property
    def missing(self) -> tuple[str, ...]:
        """What could not be recorded, one sentence each."""
        unreadable = sum(line.startswith("# ") for line in self.lines) if self.why else 0
        return (f"cannot read the metadata of {unreadable} installed packages",) if unreadable else ()


class PackageQuestion:
    """Runs `pip freeze`, which takes a second, in the background.

    timeout_s: after that the installed metadata is read instead.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._packages: Packages | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._why = ""
        try:
            self._process = subprocess.Popen(
                # -P, --isolated: modules in the working directory and PIP_ variables must not change the answer
                [sys.executable, "-P", "-m", "pip", "--isolated", "freeze", "--disable-pip-version-check"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C at a terminal must reach only the launcher
            )
        except OSError as error:
            self._why = f"cannot start pip: {error}"
        self._thread = threading.Thread(target=self._ask, name="packages", daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        """Wait for pip; read the metadata if it fails."""
        output = self._pip_output()
        if output is None:
            self._packages = from_metadata(self._why)
            return
        lines = output.decode(errors="replace").splitlines()
        self._packages = Packages(tuple(without_secrets(line) for line in lines), "pip freeze")

    def _pip_output(self) -> bytes | None:
        """The output of pip; None, and `_why` is set, if it fails."""
        if self._process is None:
            return None
        try:
            output, _ = self._process.communicate(timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            self._kill()
            self._why = f"pip freeze took longer than {self._timeout_s:g} s"
            return None
        if self._process.returncode != 0:
            self._why = f"pip freeze ended with exit code {self._process.returncode}"
            return None
        if len(output) > OUTPUT_BYTES_MAX:
            self._why = f"pip freeze printed more than {OUTPUT_BYTES_MAX:,} bytes"
            return None
        return output

    def ready(self, timeout_s: float) -> bool:
        """Whether the answer is there, after waiting for at most `timeout_s`."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def answer(self) -> Packages:
        """Wait for the packages; from the installed metadata if pip is missing, fails or hangs."""
        self._thread.join()
        assert self._packages is not None
        return self._packages

    def withdraw(self) -> None:
        """Cancel."""
        self._kill()

    def _kill(self) -> None:
        """Kill pip and the programs that it started."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def from_metadata(why: str = "") -> Packages:
    """The packages that this interpreter can import.  why: why pip failed."""
    found: set[str] = set()
    for distribution in metadata.distributions():
        found.update(_line_of(distribution))
    return Packages(tuple(sorted(found, key=str.lower)), "importlib.metadata", why)


def _line_of(distribution: metadata.Distribution) -> Iterator[str]:
    """`name==version`, or a comment if the metadata cannot be read."""
    try:
        fields = distribution.metadata
        name, version = fields["Name"], fields["Version"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        name, version = None, type(error).__name__
    path = getattr(distribution, "_path", None)
    if name and version:
        yield f"{name}=={version}"
    else:
        yield f"# cannot read the metadata of {path.name if path is not None else 'a package'}"


def without_secrets(line: str) -> str:
    """A line of `pip freeze` without credentials in its address (`name @ https://…`, `-e git+https://…`).

    The commit after the last `@` of the address is kept, and `egg` and `subdirectory` of its fragment.
    """
    head, found, rest = line.rpartition(" ")
    if "://" not in rest:
        return line
    scheme, _, address = rest.partition("://")
    address, _, fragment = address.partition("#")
    host, slash, path = address.partition("/")
    clean = without_credentials(f"{scheme}://{host}{slash}{path}")
    kept = "&".join(part for part in fragment.split("&") if part.startswith(("egg=", "subdirectory=")))
    return f"{head}{found}{clean}" + (f"#{kept}" if kept else "")
