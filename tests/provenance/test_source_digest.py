"""The digest of a source ignores comments, docstrings and formatting, and nothing else."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from llmrun.provenance.code import source_digest

SOURCE = '''"""A module."""
import math

RATE = 0.1
"""What it means."""


class Layer:
    """A layer."""

    size: int = 3

    def forward(self, x, *, scale=1.0):
        """Scale."""
        # a comment
        return f"{x!r:>{self.size}}" if x else [math.sqrt(v) * scale for v in (x, 2)]
'''

SAME = {
    "comments": SOURCE.replace("# a comment", "# another one\n        # and more"),
    "docstrings": SOURCE.replace('"""Scale."""', '"""Scale it by a factor."""').replace(
        '"""A module."""', ""
    ),
    "attribute docstrings": SOURCE.replace('"""What it means."""\n', ""),
    "formatting": SOURCE.replace("(x, 2)", "(\n            x,\n            2,\n        )").replace(
        " = 0.1", "=.1"
    ),
    "quotes": SOURCE.replace('f"{x!r:>{self.size}}"', "f'{x!r:>{self.size}}'"),
    "line endings": SOURCE.replace("\n", "\r\n"),
}
OTHER = {
    "a constant": SOURCE.replace("0.1", "0.2"),
    "a type": SOURCE.replace("scale=1.0", "scale=1"),
    "a sign": SOURCE.replace("RATE = 0.1", "RATE = -0.1"),
    "a name": SOURCE.replace("math.sqrt", "math.cbrt"),
    "an operator": SOURCE.replace("* scale", "/ scale"),
    "an order": SOURCE.replace("(x, 2)", "(2, x)"),
    "a default": SOURCE.replace("scale=1.0", "scale=None"),
    "a conversion": SOURCE.replace("!r", "!s"),
    "a keyword-only mark": SOURCE.replace("*, ", ""),
    "a string": SOURCE.replace("if x else", "if x == '' else"),
    "an indent": SOURCE.replace("        return", "        if x: return"),
}


@pytest.mark.parametrize("name", SAME)
def test_what_cannot_change_a_bit_does_not_count(name) -> None:
    """Comments, docstrings, formatting and spelling leave the digest as it is."""
    assert SAME[name] != SOURCE
    assert source_digest(SAME[name].encode()) == source_digest(SOURCE.encode())


@pytest.mark.parametrize("name", OTHER)
def test_whatever_else_changes_counts(name) -> None:
    """Each other edit gives another digest."""
    assert OTHER[name] != SOURCE
    assert source_digest(OTHER[name].encode()) != source_digest(SOURCE.encode())


def test_a_file_that_does_not_parse_has_a_digest_of_its_bytes() -> None:
    """Two broken files differ if their bytes do."""
    assert source_digest(b"def (") != source_digest(b"def ((")


def installed(name: str) -> str | None:
    """An interpreter of that name that starts, on PATH or below pyenv's directory."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(name), *map(str, pyenv.glob(f"*/bin/{name}"))]
    starts = (c for c in candidates if c and not subprocess.run([c, "-c", ""], check=False).returncode)
    return next(starts, None)


@pytest.mark.parametrize("python", ["python3.12", "python3.13", "python3.14"])
def test_other_pythons_give_the_same_digests(python, llmrun_sources) -> None:
    """Every file of the package has one digest under every Python that is installed."""
    interpreter = installed(python)
    if interpreter is None:
        pytest.skip(f"{python} is not installed")
    script = (
        "import sys, importlib.util as u\n"
        "spec = u.spec_from_file_location('d', 'llmrun/provenance/code.py')\n"
        "d = u.module_from_spec(spec); spec.loader.exec_module(d)\n"
        "print(*(d.source_digest(open(p, 'rb').read()) for p in sys.argv[1:]), sep='\\n')\n"
    )
    paths = [source.path for source in llmrun_sources]
    found = subprocess.run([interpreter, "-c", script, *paths], capture_output=True, text=True, check=True)

    assert found.stdout.split() == [source_digest(source.text.encode()) for source in llmrun_sources]
