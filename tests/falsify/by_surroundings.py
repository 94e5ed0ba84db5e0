"""Attempts by what surrounds a process: processors, limits, directories, the shell."""

import shutil
import subprocess
from collections.abc import Callable

from falsify.attempt import EQUAL, HARMLESS, Attempt, Ending, Pair, variant
from falsify.ground import NotHereError, Place, clean_environment

NO_BITS = "no number of a step depends on it"


def _under(*prefix: str) -> Callable[[Place], Pair]:
    """The command after a prefix."""

    def play(place: Place) -> Pair:
        if shutil.which(prefix[0]) is None:
            raise NotHereError(f"no {prefix[0]}")
        return variant(prefix=prefix)(place)

    return play


def _shell(statement: str) -> Callable[[Place], Pair]:
    """The command after a statement of the shell."""
    return _under("bash", "-c", f'{statement} && exec "$@"', "bash")


def _directory(place: Place) -> Pair:
    """A working directory with a name that needs quoting."""
    folder = place.path / "a dir with 'quotes' and μ" / "below"
    folder.mkdir(parents=True)
    return variant(cwd=folder)(place)


def _homes(place: Place) -> Pair:
    """A home that cannot be written, and caches and temporary files elsewhere."""
    (place.path / "tmp").mkdir()
    return variant(env={"HOME": "/proc", "XDG_CACHE_HOME": "/proc/cache", "TMPDIR": str(place.path / "tmp")})(
        place
    )


def _repository(place: Place) -> Pair:
    """A working directory in a git repository with a commit, an edit and an untracked file."""
    (place.work / "notes.py").write_text("x = 1\n")
    identity = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "notes"]):
        subprocess.run(["git", *words], cwd=place.work, env=clean_environment(place.path), check=True)
    (place.work / "notes.py").write_text("x = 2\n")
    (place.work / "untracked.py").write_text("y = 1\n")
    return variant()(place)


ATTEMPTS = (
    Attempt("one-core", "one processor core (taskset)", EQUAL, "threads come from the config", _under("taskset", "-c", "0")),
    Attempt("no-randomised-addresses", "fixed addresses (setarch -R)", EQUAL, NO_BITS, _under("setarch", "-R")),
    Attempt("umask", "umask 077 and the lowest priority", EQUAL, NO_BITS, _shell("umask 077 && renice -n 19 $$")),
    Attempt("stack-small", "a stack of 1 MiB", EQUAL, NO_BITS, _shell("ulimit -s 1024")),
    Attempt("stack-unlimited", "a stack without limit, which changes the layout of addresses", EQUAL, NO_BITS, _shell("ulimit -s unlimited")),
    Attempt("few-descriptors", "64 file descriptors", (Ending.EQUAL, Ending.REFUSED, Ending.STOPPED), "too few may end a run, not change it", _shell("ulimit -n 64")),
    Attempt("no-output", "standard output and error closed or full", (Ending.EQUAL,), NO_BITS, _shell("exec >/dev/full")),
    Attempt("interpreter-OO", "python -OO", HARMLESS, "asserts and docstrings make no number", variant(interpreter=["-OO"])),
    Attempt("interpreter-isolated", "python -E -s", EQUAL, NO_BITS, variant(interpreter=["-E", "-s"])),
    Attempt("directory", "a working directory with spaces, quotes and letters beyond ASCII", EQUAL, NO_BITS, _directory),
    Attempt("repository", "a working directory in a git repository with edits", EQUAL, "files that no worker loads are no code", _repository),
    Attempt("home", "HOME and the caches cannot be written, TMPDIR is another one", EQUAL, NO_BITS, _homes),
)  # fmt: skip
