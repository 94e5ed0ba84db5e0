"""The set-up from committed pins: what the lock holds, what `make setup` refuses, and the whole of it once."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUP = ROOT / "tools" / "setup.sh"


def name_of(requirement: str) -> str:
    """The normal form of a requirement's name."""
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-")


def locked() -> dict[str, str]:
    """Package -> its entry in the lock, with its hashes."""
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    return {name_of(entry): entry for entry in entries}


def test_every_locked_package_is_exact_and_hashed() -> None:
    """Each entry names one version and at least one sha256, and no place to fetch from."""
    text = (ROOT / "requirements.lock").read_text()

    assert all(
        re.match(r"[a-z0-9-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry, re.DOTALL)
        for entry in locked().values()
    )
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE)


def test_lock_covers_what_the_project_declares() -> None:
    """Runtime, development and build needs are all locked; torch alone is pinned by constraint."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    declared = [
        *project["project"]["dependencies"],
        *(each for extra in extras.values() for each in extra if name_of(each) != "llmrun"),
        *project["dependency-groups"]["torch"],
        *project["build-system"]["requires"],
    ]

    assert {name_of(requirement) for requirement in declared} - set(locked()) == {"torch"}
    assert (ROOT / "constraints.txt").read_text() == "torch==2.13.0\n"


def test_lock_holds_no_cuda() -> None:
    """What a CUDA build of torch needs comes with that build, never with the lock."""
    cuda = [name for name in locked() if re.match(r"triton|cuda|nvidia-(?!ml-py)", name)]

    assert cuda == []


def test_ci_runs_what_everybody_runs() -> None:
    """CI's script is one make target, which lints first and tests last."""
    script = (ROOT / ".ci" / "run").read_text()
    planned = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "test"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()

    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert script.splitlines()[-1] == "exec make --no-print-directory test"
    assert "pytest" in planned[-1]
    assert [line.split("/")[-1].split()[0] for line in planned[-4:-1]] == ["ruff", "ruff", "mypy"]


def test_foreign_environment_is_left_alone(tmp_path: Path) -> None:
    """A directory that `make setup` did not make is refused and keeps every file."""
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "mine").write_text("precious")
    refused = subprocess.run(
        [SETUP, tmp_path / "venv", sys.executable], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert refused.returncode == 1
    assert "exists and was not made by make setup; it is left as it is\nhint: move it away" in refused.stderr
    assert [path.name for path in (tmp_path / "venv").iterdir()] == ["mine"]


def test_missing_python_is_named(tmp_path: Path) -> None:
    """An interpreter that does not suit is refused with what was tried and what to do."""
    refused = subprocess.run(
        [SETUP, tmp_path / "venv", "python-of-nobody"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert refused.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 with venv found (tried: python-of-nobody)" in refused.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.slow
def test_setup_from_nothing(tmp_path: Path, project_files: list[Path]) -> None:
    """In a fresh copy with an empty HOME `make setup` gives a working llmrun, once; the second time does nothing."""
    checkout = tmp_path / "checkout"
    for path in project_files:
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, checkout / path)
    environment = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run(["make", "setup"], cwd=checkout, env=environment, check=True)
    checked = subprocess.run(
        [checkout / ".venv/bin/python", "-m", "pip", "check"], check=False, capture_output=True
    )
    helped = subprocess.run(
        [checkout / ".venv/bin/llmrun", "--help"], check=True, capture_output=True, text=True
    )
    again = subprocess.run(
        ["make", "setup"], cwd=checkout, env=environment, check=True, capture_output=True, text=True
    )

    assert checked.returncode == 0
    assert "train" in helped.stdout
    assert "setup:" not in again.stderr
