"""A violation made on purpose, which the campaign has to find, and everything harmless at once, which it may not."""

from pathlib import Path
from typing import Any

from falsify.attempt import EQUAL, Attempt, Pair
from falsify.ground import (
    EDITED,
    Finished,
    Place,
    ReplayEnvironment,
    copy_package,
    numeric_source,
    replace_text,
)

SWITCH = "LLMRUN_FALSIFY_PLANTED"
CONFIG = "odd"
"""A small one: these attempts are part of `make test`."""


def _train_reference(place: Place) -> Finished:
    """A run of a copy of the package in which a variable that nobody records chooses a number."""
    file = numeric_source(copy_package(place))
    name, _, value = EDITED[0].partition(" = ")
    line = f"{name} = {value} if {SWITCH!r} not in __import__('os').environ else 0.03"
    replace_text(file, file.read_text().replace(EDITED[0], line))
    return place.train(CONFIG, name="reference", env={"PYTHONPATH": str(place.path / "install")})


def reference(ground: ReplayEnvironment) -> Path:
    """The reference run of this module's attempts: of a copy of the package, the variable not set."""
    return ground.once("planted", _train_reference)


def _compare(place: Place, env: dict[str, str], **how: Any) -> Pair:
    """The same copy of the package, run in another way."""
    before = reference(place.ground)
    package = before.parents[1] / "install"
    return Pair(before, place.train(CONFIG, env={**env, "PYTHONPATH": str(package)}, **how))


def _planted(place: Place) -> Pair:
    """Both runs load the same source."""
    return _compare(place, {SWITCH: "1"})


PLANTED = Attempt(
    "planted", "a number depends on a variable that nobody records", EQUAL, "to be found", _planted
)


def _everything_harmless(place: Place) -> Pair:
    """Many surroundings, spellings and variables at once."""
    folder = place.path / "another dir"
    folder.mkdir()
    env = {
        "TZ": "Pacific/Apia", "LC_ALL": "C", "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2",
        "MALLOC_ARENA_MAX": "1", "MALLOC_PERTURB_": "90", "LD_BIND_NOW": "1", "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/proc", "RANK": "3", "WORLD_SIZE": "5", "MASTER_PORT": "1", "LLMRUN_AGENT_PID": "1",
    }  # fmt: skip
    (place.path / "profile.py").write_text("raise SystemExit('not to be imported')\n")
    options = ["--set", "activation_checkpointing=block", "--set", "checkpoint.every_steps=1"]
    prefix = ["bash", "-c", 'umask 077; ulimit -s 1024; exec nice -n 5 "$@"', "bash"]
    return _compare(place, env, cwd=folder, options=options, prefix=prefix)


HARMLESS = Attempt(
    "harmless", "many harmless things at once", EQUAL, "none is a number", _everything_harmless
)
