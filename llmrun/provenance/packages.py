"""Which Python packages are installed: `pip freeze`, or the installed metadata where pip is absent."""

import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from llmrun.provenance.git import without_credentials

TIMEOUT_S = 120


@dataclass(frozen=True)
class Packages:
    """The installed packages, one `name==version` line each, and who said so."""

    lines: tuple[str, ...]
    source: Literal["pip freeze", "importlib.metadata"]

    @property
    def text(self) -> str:
        """The content of pip-freeze.txt; its first line names the source where that is not pip."""
        head = () if self.source == "pip freeze" else (f"# from {self.source}: this environment has no pip",)
        return "".join(f"{line}\n" for line in (*head, *self.lines))


class PackageQuestion:
    """`pip freeze`, started now and answered later: it takes a second that other work can share."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pip", "freeze", "--disable-pip-version-check"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C at a terminal is the launcher's to handle
        )

    def answer(self) -> Packages:
        """The packages; from the installed metadata where pip is absent, fails or hangs."""
        try:
            output, _ = self._process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.withdraw()
            return from_metadata()
        if self._process.returncode != 0:
            return from_metadata()
        lines = output.decode(errors="replace").splitlines()
        return Packages(tuple(without_secrets(line) for line in lines), "pip freeze")

    def withdraw(self) -> None:
        """End the question without an answer."""
        self._process.kill()
        self._process.communicate()


def from_metadata() -> Packages:
    """The packages that the running interpreter can import."""
    found = {
        (distribution.metadata["Name"], distribution.version)
        for distribution in metadata.distributions()
        if distribution.metadata["Name"]
    }
    lines = sorted((f"{name}=={version}" for name, version in found), key=str.lower)
    return Packages(tuple(lines), "importlib.metadata")


def without_secrets(line: str) -> str:
    """A line of `pip freeze` whose address (`name @ https://…`, `-e git+https://…`) has no credentials.

    The commit that stands behind the address's last `@` is kept; of a fragment, `egg` and `subdirectory`.
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
