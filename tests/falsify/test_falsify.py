"""A few attempts at other bits under the same fingerprint, and whether the suite can fail at all."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from falsify.__main__ import attempted, exit_code
from falsify.attempt import Ending, Pair
from falsify.catalogue import ATTEMPTS
from falsify.ground import (
    STEPS,
    Finished,
    NotHereError,
    Place,
    ReplayEnvironment,
    clean_environment,
)
from falsify.judge import checkpoint_digests, compare, differing_bits, fingerprint_changes, judge
from falsify.planted import HARMLESS, PLANTED, reference

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
SEEDS = ("profile", "stale-byte-code", "edit-", "no-amx", "library-path-flush", "config-edited")
"""Ways that once gave other bits under the same fingerprint."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> ReplayEnvironment:
    """A dataset; reference runs are made when they are needed."""
    return ReplayEnvironment(tmp_path_factory.mktemp("falsify") / "ground")


def test_the_catalogue_is_wide():
    """At least fifty attempts with names of their own, which state a reason and never accept a finding."""
    names = Counter(attempt.name for attempt in ATTEMPTS)
    never = {Ending.VIOLATION, Ending.CRASH, Ending.HANG, Ending.CONTRADICTION, Ending.NOT_TRIED}

    assert len(ATTEMPTS) >= 50
    assert set(names.values()) == {1}
    assert all(
        attempt.because and attempt.allowed and not never & set(attempt.allowed) for attempt in ATTEMPTS
    )
    assert all(any(seed in name for name in names) for seed in SEEDS)


@pytest.mark.slow
def test_many_harmless_things_at_once(ground):
    """Surroundings, spellings and variables that are no number leave every bit and the fingerprint."""
    result = attempted(HARMLESS, ground)

    assert result.ending == Ending.EQUAL, result.detail


@pytest.mark.slow
def test_a_planted_violation_is_found(ground):
    """A number that depends on a variable nobody records is a finding, and ends a campaign with exit code 1."""
    result = attempted(PLANTED, ground)

    assert result.ending == Ending.VIOLATION, result.detail
    assert result.is_finding
    assert exit_code([result], ground.path) == 1
    assert (ground.path / PLANTED.name).exists()


def copied(ground: ReplayEnvironment, tmp_path: Path) -> tuple[Path, Finished]:
    """The reference run, and a copy of it as a variant that ended well."""
    original = reference(ground)
    run = Path(shutil.copytree(original, tmp_path / "variant"))
    return original, Finished(0, "", "", run)


def test_a_changed_tensor_is_found(ground, tmp_path):
    """One bit of one tensor: seen in the file, and called out if `verify` does not see it in the ledger."""
    original, done = copied(ground, tmp_path)
    assert differing_bits(original, done.run) == []
    (file,) = (done.run / "checkpoints").glob(f"step-{STEPS:08d}/model-*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    assert differing_bits(original, done.run) == [f"1 of {len(checkpoint_digests(original))} tensors"]
    assert compare(Pair(original, done), ground.place("tensor"))[0] in (
        Ending.VIOLATION,
        Ending.CONTRADICTION,
    )


def test_a_changed_fingerprint_is_named(ground, tmp_path):
    """Part and key of a preimage that differs; a segment with another fingerprint is enough."""
    original, done = copied(ground, tmp_path)
    assert fingerprint_changes(original, done.run) == []
    file = done.run / "run.json"
    document = json.loads(file.read_text())
    document["segments"][0]["fingerprint"] = "ff" * 32
    file.write_text(json.dumps(document))
    assert fingerprint_changes(original, done.run) == ["a later segment"]
    document["fingerprint"]["preimages"]["environment"]["torch"] = "1.0"
    file.write_text(json.dumps(document))
    assert fingerprint_changes(original, done.run) == ["environment: torch"]


@pytest.mark.parametrize(
    ("code", "screen", "ending"),
    [
        (None, "", Ending.HANG),
        (70, "error: a bug of llmrun", Ending.CRASH),
        (1, "Traceback (most recent call last)", Ending.CRASH),
        (-9, "", Ending.CRASH),
        (3, "", Ending.CRASH),
        (3, "Traceback (most recent call last)\nerror: x", Ending.CRASH),
        (3, "error: the code changed", Ending.REFUSED),
        (2, "error: batch.D must be positive", Ending.REFUSED),
        (4, "error: the code changed while training", Ending.STOPPED),
    ],
)
def test_endings_without_a_run(tmp_path, code, screen, ending):
    """A refusal needs its exit code and an error line; a traceback is a crash."""
    place = Place(None, tmp_path)  # type: ignore[arg-type]

    assert judge(Pair(tmp_path, Finished(code, "", screen, tmp_path)), place)[0] == ending


def campaign(*options: str) -> tuple[int, str]:
    """Exit code and screen of `python -m falsify`."""
    done = subprocess.run(
        [sys.executable, "-m", "falsify", *options],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.slow
def test_a_campaign_with_a_violation_fails():
    """The command itself: exit code 1, the attempt named, and the line that does it again."""
    code, screen = campaign("--planted")

    assert code == 1, screen
    assert f"FOUND {PLANTED.name}: {Ending.VIOLATION}" in screen
    assert f"FOUND {HARMLESS.name}" not in screen


def test_an_unknown_name_is_refused():
    """`ONLY=` with a name that no attempt has ends with exit code 2."""
    assert campaign("--only", "nothing-has-this-name")[0] == 2


def test_nothing_of_the_caller_reaches_an_attempt(monkeypatch, tmp_path):
    """Variables of the caller do not change the reference runs."""
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")

    assert not {"ATEN_CPU_CAPABILITY", "PYTHONPATH", "OMP_NUM_THREADS"} & set(clean_environment(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.name)
def test_attempt(ground, attempt):
    """Every attempt ends as it may."""
    place = ground.place(attempt.name)
    try:
        ending, detail = judge(attempt.play(place), place)
    except NotHereError as error:
        pytest.skip(str(error))
    shutil.rmtree(place.path, ignore_errors=True)

    assert ending in attempt.allowed, f"{ending}: {detail}"
