"""What every test relies on: one thread, plain output, and the project's sources read once."""

import ast
import os
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent

# Before torch is imported anywhere: threads change bits and spin on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"
# Typer and rich force terminal output where these are set; golden texts are for a plain screen of 100 columns.
for name in ("GITHUB_ACTIONS", "FORCE_COLOR", "PY_COLORS", "CLICOLOR_FORCE", "TTY_COMPATIBLE"):
    os.environ.pop(name, None)
os.environ |= {"NO_COLOR": "1", "COLUMNS": "100", "TERM": "dumb"}

# The same examples on every machine, at every load.  A failure prints the line that replays it.
settings.register_profile("llmrun", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("llmrun")


LONGEST = ("train", "verify", "launch", "own_model", "check", "migrate")
"""Directories whose files take longest: they start first, so that all test processes end at about the same time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files by how long they take; tests of a file stay together."""
    items.sort(key=lambda item: item.path.parent.name not in LONGEST)


@dataclass(frozen=True)
class Source:
    """One Python file: `path` relative to the repository, `text`, and its syntax tree."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text, self.path)

    @property
    def lines(self) -> int:
        """Physical lines."""
        return len(self.text.splitlines())

    @property
    def module(self) -> str:
        """Dotted name: `llmrun.data` for llmrun/data/__init__.py."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def row(self) -> str:
        """The package or module below `llmrun` that the file belongs to, "" outside llmrun."""
        parts = self.module.split(".")
        return parts[1] if parts[0] == "llmrun" and len(parts) > 1 else ""


@pytest.fixture(scope="session")
def project_files() -> list[Path]:
    """Every file that git tracks or would track, relative to the repository."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = sorted({Path(name) for name in listing.stdout.split("\0") if name})
    return [path for path in paths if (ROOT / path).is_file()]


@pytest.fixture(scope="session")
def sources(project_files: list[Path]) -> list[Source]:
    """Every Python file of the project."""
    return [
        Source(path.as_posix(), (ROOT / path).read_text(encoding="utf-8"))
        for path in project_files
        if path.suffix == ".py"
    ]


@pytest.fixture(scope="session")
def llmrun_sources(sources: list[Source]) -> list[Source]:
    """The Python files of the package."""
    return [source for source in sources if source.path.startswith("llmrun/")]


def pytest_terminal_summary(terminalreporter) -> None:
    """What tests counted, at the end of every session: how many crash states were looked at."""
    message = {
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for key, value in getattr(report, "user_properties", ())
        if key == "crash states"
    }
    for line in sorted(message):
        terminalreporter.write_line(line)
