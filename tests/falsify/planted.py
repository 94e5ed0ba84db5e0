"""A violation made on purpose, which the campaign has to find, and everything harmless at once, which it may not."""

from falsify import by_config
from falsify.attempt import EQUAL, Attempt, Pair, variant
from falsify.ground import EDITED, Place, copy_package, numeric_source, replace_text

SWITCH = "LLMRUN_FALSIFY_PLANTED"


def _planted(place: Place) -> Pair:
    """Both runs load the same source, in which a variable that nobody records chooses a number."""
    package = copy_package(place)
    file = numeric_source(package)
    name, _, value = EDITED[0].partition(" = ")
    line = f"{name} = {value} if {SWITCH!r} not in __import__('os').environ else 0.03"
    replace_text(file, file.read_text().replace(EDITED[0], line))
    env = {"PYTHONPATH": str(package)}
    before = place.train(name="reference", env=env)
    assert before.code == 0, before.err
    return Pair(before.run, place.train(env={**env, SWITCH: "1"}))


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
    return variant(env=env, cwd=folder, options=options, prefix=prefix)(place)


QUICK = (
    Attempt("harmless", "many harmless things at once", EQUAL, "none is a number", _everything_harmless),
    *(attempt for attempt in by_config.ATTEMPTS if attempt.name == "last-bit"),
)
"""For `make test`: one shared reference, little time."""
