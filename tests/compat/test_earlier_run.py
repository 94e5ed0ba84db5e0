"""A run that commit 2aab364 made is still listed, shown, checked, verified, sampled and resumed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STEPS = 8


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A writable copy of the run and its dataset, in the places that the run's config names."""
    place = tmp_path_factory.mktemp("earlier")
    shutil.copytree(HERE / "run-2aab364", place / "runs" / "before")
    shutil.copytree(HERE / "data-2aab364", place / "data")
    return place


def llmrun(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmrun", *arguments], cwd=place, capture_output=True, text=True, check=False
    )


def test_it_is_listed_and_shown(place) -> None:
    """`runs list` and `runs show` read its record."""
    listed = llmrun(place, "runs", "list", "--json")
    shown = llmrun(place, "runs", "show", "runs/before", "--json")

    assert (listed.returncode, shown.returncode) == (0, 0), listed.stderr + shown.stderr
    assert "before" in listed.stdout
    assert json.loads(shown.stdout)["fingerprint"]["digest"].startswith("dd5f212d9c3ae734")


def test_its_checkpoints_are_sound(place) -> None:
    """`checkpoints check` reads every byte and finds no damage."""
    checked = llmrun(place, "checkpoints", "check", "runs/before")

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_it_is_verified(place) -> None:
    """`verify` compares it with itself: ledger and checkpoints are equal."""
    found = llmrun(place, "verify", "runs/before", "runs/before", "--json")

    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["equal"] is True


def test_it_samples(place) -> None:
    """`sample` reads its newest checkpoint and the dataset's tokenizer."""
    sampled = llmrun(place, "sample", "runs/before", "--tokens", "8")

    assert sampled.returncode == 0, sampled.stderr


def test_it_is_resumed(place) -> None:
    """A plain resume is refused, for its code changed; if that is allowed, it ends with a sound checkpoint."""
    refused = llmrun(place, "resume", "runs/before")
    allowed = llmrun(place, "resume", "runs/before", "--allow", "code", "--allow", "environment")
    record = json.loads((place / "runs" / "before" / "run.json").read_text())

    assert refused.returncode == 3, refused.stderr
    assert "--allow code" in refused.stderr
    assert allowed.returncode == 0, allowed.stderr
    assert record["segments"][-1]["from_step"] == 6
    assert record["segments"][-1]["to_step"] == STEPS
    assert llmrun(place, "checkpoints", "check", "runs/before").returncode == 0
