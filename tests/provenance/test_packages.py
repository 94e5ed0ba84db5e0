"""Which packages are installed, and who says so."""

import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from torch import version as torch_version

from llmrun.provenance.distributions import DEPENDENCIES, distributions_of
from llmrun.provenance.packages import PackageQuestion, Packages, from_metadata, without_secrets

from .conftest import is_running


def test_pip_answers_where_it_is_there():
    """The list holds what the tests themselves import."""
    packages = PackageQuestion().answer()

    assert packages.source == "pip freeze"
    assert any(line.startswith("pytest==") for line in packages.lines)
    assert not packages.text.startswith("#")


def test_metadata_answers_where_pip_is_absent(monkeypatch, tmp_path):
    """Another source, and the text says which."""
    refusing = tmp_path / "python"
    refusing.write_text("#!/bin/sh\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(refusing))
    packages = PackageQuestion().answer()

    assert packages.source == "importlib.metadata"
    assert packages.text.startswith("# from importlib.metadata: pip freeze ended with exit code 1\n")
    assert packages.lines == from_metadata().lines


def test_a_pip_that_hangs_is_ended(monkeypatch, tmp_path):
    """After its time the metadata answers, and no process of pip is left."""
    hanging = tmp_path / "python"
    hanging.write_text(f"#!/bin/sh\nsleep 300 & echo $! > {tmp_path}/child\nwait\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hanging))
    packages = PackageQuestion(timeout_s=1.0).answer()
    child = int((tmp_path / "child").read_text())

    assert packages.source == "importlib.metadata"
    assert "longer than 1 s" in packages.why
    assert packages.lines == from_metadata().lines
    assert not is_running(child)


def test_broken_metadata_is_on_record_and_stops_nothing(monkeypatch, tmp_path):
    """Bytes that are no text, an empty file and a missing one: each is named, the sound ones are listed."""
    for name, content in [("bytes", b"Name: \xff\xfe\nVersion\xff"), ("empty", b""), ("absent", None)]:
        directory = tmp_path / f"broken_{name}-1.0.dist-info"
        directory.mkdir()
        if content is not None:
            (directory / "METADATA").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    packages = from_metadata("no pip")

    assert sum("broken_" in line for line in packages.lines) == 3
    assert any(line.startswith("pytest==") for line in packages.lines)
    assert "3 installed packages" in packages.missing[0]


def test_the_working_directory_and_variables_of_pip_change_nothing(monkeypatch, tmp_path):
    """A module of the user that is named like one of Python's is not imported; pip's settings do not hide packages."""
    (tmp_path / "json.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_EXCLUDE", "pytest")
    packages = PackageQuestion().answer()

    assert packages.source == "pip freeze"
    assert any(line.startswith("pytest==") for line in packages.lines)


def test_both_sources_agree_on_installed_packages():
    """A package from an index has the same line in both."""
    lines = PackageQuestion().answer().lines
    pinned = {line.lower() for line in lines if "==" in line and not line.startswith("#")}
    known = {line.lower().replace("_", "-") for line in from_metadata().lines}

    assert {line.replace("_", "-") for line in pinned} <= known


@pytest.mark.parametrize(
    ("line", "clean"),
    [
        ("numpy==2.4.6", "numpy==2.4.6"),
        ("r @ https://u:s3cret@example.org/r.whl", "r @ https://example.org/r.whl"),
        (
            "-e git+https://s3cret@example.org/r.git@0123abc#egg=r",
            "-e git+https://example.org/r.git@0123abc#egg=r",
        ),
        (
            "r @ git+https://example.org/r@x#egg=r&token=s3cret&subdirectory=a/b",
            "r @ git+https://example.org/r@x#egg=r&subdirectory=a/b",
        ),
        ("r @ git+https://example.org/r@x#token=s3cret&egg=r", "r @ git+https://example.org/r@x#egg=r"),
        ("r @ https://example.org/r.whl#token=s3cret", "r @ https://example.org/r.whl"),
        ("r @ file:///srv/alice/r", "r @ file:///srv/alice/r"),
        ("r @ git+ssh://git@example.org/r@0123abc", "r @ git+ssh://git@example.org/r@0123abc"),
    ],
)
def test_lines_carry_no_credentials(line, clean):
    """Direct references keep their commit and lose their password."""
    assert without_secrets(line) == clean


def test_an_empty_environment_is_an_empty_text():
    """Nothing installed is nothing written."""
    assert Packages((), "pip freeze").text == ""


def test_the_own_dependencies_are_those_of_the_project():
    """The packages that no model adds to the fingerprint are llmrun's dependencies in pyproject.toml."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert tuple(re.split("[>=]", line)[0] for line in project["dependencies"]) == DEPENDENCIES


def test_a_package_is_named_by_version_and_code():
    """A file of an installed distribution names it; one of llmrun's dependencies is left out."""
    found = distributions_of({pytest.__file__, str(Path(torch_version.__file__))})
    assert set(found) == {"pytest"}
    assert found["pytest"]["version"] == version("pytest")
    assert len(found["pytest"]["code"]) == 64
