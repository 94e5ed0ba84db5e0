"""Attempts by edits of files at every moment between the first look and the end."""

import json
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from falsify.attempt import EQUAL, NOTICED, Attempt, Ending, Pair, variant
from falsify.ground import (
    EDITED,
    Place,
    copy_package,
    edit,
    numeric_source,
    replace_text,
    wait_for,
)

LOADED = "the fingerprint covers what the workers loaded"
STATED = "what is stated twice is compared before it is believed"

Moment = Callable[[Path], bool]
"""Whether a moment has come, from a run's directory."""


def _draft(run: Path) -> bool:
    """The launcher has begun to prepare: the probe is running or about to."""
    return run.parent.is_dir() and any(run.parent.iterdir())


def _committed(run: Path) -> bool:
    """The probe has answered."""
    return (run / "run.json").exists()


def _worker(run: Path) -> bool:
    """A worker has started and not yet imported torch."""
    return any(run.glob("logs/segment-*/rank-0.log"))


def _first_step(run: Path) -> bool:
    """A step has been recorded."""
    metrics = run / "metrics.jsonl"
    return metrics.exists() and metrics.stat().st_size > 0


def _never(run: Path) -> bool:
    return False


def _edited(
    when: Moment, change: Callable[[Path], None] = edit, back: Moment = _never
) -> Callable[[Place], Pair]:
    """An edit of a numeric source at one moment, undone at another."""

    def play(place: Place) -> Pair:
        package = copy_package(place)
        file = numeric_source(package)
        original, made = file.read_text(), threading.Event()

        def meanwhile(process: "subprocess.Popen[str]", run: Path) -> None:
            if wait_for(process, lambda: when(run)):
                change(file)
                made.set()
                if back is not _never and wait_for(process, lambda: back(run)):
                    replace_text(file, original)

        pair = variant(env={"PYTHONPATH": str(package)}, meanwhile=meanwhile)(place)
        assert made.is_set(), "the moment of the edit did not come"
        return pair

    return play


def _comment(file: Path) -> None:
    replace_text(file, f"{file.read_text()}\n# a remark\n")


def _self_restoring(file: Path) -> None:
    """Put back the original as soon as the edited source is imported."""
    original = file.read_text()
    tail = f"\n{EDITED[1]}\n__import__('pathlib').Path(__file__).write_text({original!r})\n"
    replace_text(file, original + tail)


def _same_install(place: Place) -> Pair:
    """A copy of the package at another path."""
    return variant(env={"PYTHONPATH": str(copy_package(place))})(place)


def _worker_spec(place: Place) -> Pair:
    """The launcher's orders get another seed before a worker reads them."""
    made = threading.Event()

    def meanwhile(process: "subprocess.Popen[str]", run: Path) -> None:
        file = run / "logs" / "segment-001" / "orders.json"
        if wait_for(process, file.exists):
            text = file.read_text()
            replace_text(file, text.replace('"seed": 42', '"seed": 43'))
            if '"seed": 42' in text:
                made.set()

    pair = variant(meanwhile=meanwhile)(place)
    assert made.is_set(), "the seed did not stand in the orders"
    return pair


def _between_segments(change: Callable[[Path], None]) -> Callable[[Place], Pair]:
    """A run stops at step 2, a file of it is edited, and it is resumed."""

    def play(place: Place) -> Pair:
        first = place.train(options=["--until", "2"])
        assert first.code == 0, first.err
        change(first.run)
        return Pair(place.ground.reference("bf16"), place.resume())

    return play


def _record_config(run: Path) -> None:
    """run.json and config.yaml get another learning rate, the fingerprint is left."""
    file = run / "run.json"
    document = json.loads(file.read_text())
    document["config"]["optimizer"]["lr"] = 0.002
    replace_text(file, json.dumps(document))
    settings = run / "config.yaml"
    text = settings.read_text()
    assert "lr: 0.001" in text
    replace_text(settings, text.replace("lr: 0.001", "lr: 0.002"))


def _record_preimage(run: Path) -> None:
    """A preimage and the config in run.json change together, the digests are left."""
    _record_config(run)
    file = run / "run.json"
    document = json.loads(file.read_text())
    document["fingerprint"]["preimages"]["config"]["optimizer"]["lr"] = 0.002
    replace_text(file, json.dumps(document))


ATTEMPTS = (
    Attempt("other-place", "the same package at another path", EQUAL, "a path is no number", _same_install),
    Attempt("edit-at-draft", "a numeric source is edited while the launcher looks", NOTICED, LOADED, _edited(_draft)),
    Attempt("edit-after-probe", "a numeric source is edited after the launcher looked", NOTICED, LOADED, _edited(_committed)),
    Attempt("edit-at-worker", "a numeric source is edited when a worker has started", NOTICED, LOADED, _edited(_worker)),
    Attempt("edit-at-step", "a numeric source is edited after the first step", NOTICED, LOADED, _edited(_first_step)),
    Attempt("edit-and-back", "edited after the launcher looked, restored after the first step", NOTICED, LOADED, _edited(_committed, back=_first_step)),
    Attempt("edit-restores-itself", "an edit that restores the file when it is imported", NOTICED, LOADED, _edited(_committed, _self_restoring)),
    Attempt("edit-comment", "a comment is added after the launcher looked", NOTICED, LOADED, _edited(_committed, _comment)),
    Attempt("orders-edited", "the orders of the workers get another seed", NOTICED, STATED, _worker_spec),
    Attempt("config-edited", "the config of a stopped run is edited, its fingerprint left", NOTICED, STATED, _between_segments(_record_config)),
    Attempt("preimage-edited", "config and preimage of a stopped run are edited, the digests left", (Ending.EQUAL, Ending.REFUSED), STATED, _between_segments(_record_preimage)),
)  # fmt: skip
