"""Attempts by the way a run is executed: ranks, strategies, loader workers, kills and resumes."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from falsify.attempt import EQUAL, Attempt, Pair, variant
from falsify.ground import Place, wait_for

OPERATIONAL = "an operational field changes no bit and no fingerprint"
SAVE = ("--set", "checkpoint.every_steps=1")


def _sets(config: str, *settings: str) -> Callable[[Place], Pair]:
    """A run with other operational fields."""
    options = [word for setting in settings for word in ("--set", setting)]
    return variant(config, options=options)


def _ended_by(number: signal.Signals, *resume: str) -> Callable[[Place], Pair]:
    """A run that gets a signal after its second checkpoint, and is resumed."""

    def play(place: Place) -> Pair:
        def meanwhile(process: "subprocess.Popen[str]", run: Path) -> None:
            if wait_for(process, (run / "checkpoints" / "step-00000002").exists):
                os.kill(process.pid, number)

        first = place.train(options=SAVE, meanwhile=meanwhile)
        assert first.code != 0, f"the run was not ended: {first.out}"
        return Pair(place.ground.reference("bf16"), place.resume(*resume))

    return play


def _stopped(place: Place) -> Pair:
    """A run in three segments of different D."""
    for command in (
        place.train("odd", options=["--until", "1"]),
        place.resume("--until", "3", "--D", "2"),
    ):
        assert command.code == 0, command.err
    return Pair(place.ground.reference("odd"), place.resume("--D", "1"))


def _moved(place: Place) -> Pair:
    """A run that is stopped, moved and resumed in its new place, from another working directory."""
    first = place.train(name="before", options=["--until", "2"])
    assert first.code == 0, first.err
    first.run.rename(place.run("variant"))
    return Pair(place.ground.reference("bf16"), place.resume(cwd=place.path))


ATTEMPTS = (
    Attempt("D-2", "D = 2", EQUAL, OPERATIONAL, _sets("bf16", "batch.D=2")),
    Attempt("D-3-odd", "D = 3 of 8 lanes, awkward shapes", EQUAL, OPERATIONAL, _sets("odd", "batch.D=3", "batch.uneven=allow")),
    Attempt("shard", "strategy: shard at D = 1", EQUAL, OPERATIONAL, _sets("bf16", "strategy=shard")),
    Attempt("shard-odd", "strategy: shard at D = 2, awkward shapes", EQUAL, OPERATIONAL, _sets("odd", "strategy=shard", "batch.D=2")),
    Attempt("loaders", "two loader workers", EQUAL, OPERATIONAL, _sets("bf16", "data.num_workers=2")),
    Attempt("recompute", "activation_checkpointing: block", EQUAL, OPERATIONAL, _sets("bf16", "activation_checkpointing=block")),
    Attempt("saves", "a checkpoint and an evaluation after every step", EQUAL, OPERATIONAL, _sets("bf16", "checkpoint.every_steps=1", "eval.every_steps=1", "checkpoint.keep_best=true")),
    Attempt("no-order-file", "no order file", EQUAL, OPERATIONAL, _sets("bf16", "data.order_file=never")),
    Attempt("killed", "SIGKILL after step 2, resumed", EQUAL, OPERATIONAL, _ended_by(signal.SIGKILL)),
    Attempt("terminated", "SIGTERM after step 2, resumed at D = 2", EQUAL, OPERATIONAL, _ended_by(signal.SIGTERM, "--D", "2")),
    Attempt("segments", "stopped at steps 1 and 3, D = 1, 2, 1, awkward shapes", EQUAL, OPERATIONAL, _stopped),
    Attempt("moved", "stopped, moved, resumed from elsewhere", EQUAL, OPERATIONAL, _moved),
)  # fmt: skip
