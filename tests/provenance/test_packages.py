"""Which packages are installed, and who says so."""

import sys

import pytest

from llmrun.provenance.packages import PackageQuestion, Packages, from_metadata, without_secrets


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
    assert packages.text.startswith("# from importlib.metadata: this environment has no pip\n")
    assert packages.lines == from_metadata().lines


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
