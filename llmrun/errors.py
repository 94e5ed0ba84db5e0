"""The error tree and its exit codes: everything that a user can cause.

LlmrunError                what a user can cause; shown as `error: …`, never as a traceback
├── InputError        2    the user's input is wrong: config, quantity, path, dataset, argument
│   └── ConfigError   2    one or many problems of a config, all shown at once
├── DamagedError      1    a check found damage
├── RefusedError      3    refused before anything was started
├── RunFailedError    4    the run failed and can be resumed
├── NothingComparedError 5 a comparison found nothing to compare: neither equal nor different
└── PreemptedError   75    stopped on request after saving: run `llmrun resume`

Invariants of our own are plain `assert`; a broken one is a bug (exit 70).
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

EXIT_BUG = 70
EXIT_DIFFERENT = 1
EXIT_NOTHING_COMPARED = 5

TOO_MANY_FILES = frozenset({errno.EMFILE, errno.ENFILE})
"""The limit of open files of this process, or of the whole system, is reached: no file is at fault."""

DESCRIPTORS_HINT = "raise the limit of open files, for example `ulimit -n 65536`"
DESCRIPTORS_HINT_SYSTEM = "raise the limit of open files of the machine: `sysctl fs.file-max`"

SHARED_MEMORY_HINTS = (
    "`--set data.num_workers=0` needs no shared memory (the same bits)",
    "enlarge it: `mount -o remount,size=1G /dev/shm`, or `--shm-size=1g` for a container",
)


def hints_for(error: OSError) -> list[str]:
    """What helps against an error of the system, whatever file it names; empty if only the file can be mended."""
    if error.errno == errno.EMFILE:
        return [DESCRIPTORS_HINT]
    return [DESCRIPTORS_HINT_SYSTEM] if error.errno == errno.ENFILE else []


class LlmrunError(Exception):
    """An error that a user can cause.

    says:      one statement in the user's words and numbers, lower-case start, no final period.
    where:     `file:line  key`, or a path.
    caused_by: further lines, each printed as `  Caused by: …`.
    hints:     commands or settings to try, each printed as `hint: …`.
    """

    exit_code: ClassVar[int] = EXIT_BUG

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        caused_by: Sequence[str] = (),
        hints: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.caused_by = tuple(caused_by)
        self.hints = tuple(hints)

    def as_json(self) -> dict[str, Any]:
        """The error as a JSON object, for `--json` and for the way from a worker to its launcher."""
        return {
            "error": self.message,
            "where": self.where,
            "caused_by": list(self.caused_by),
            "hints": list(self.hints),
            "exit_code": self.exit_code,
        }


class InputError(LlmrunError):
    """The user's input is wrong."""

    exit_code = 2


class DamagedError(LlmrunError):
    """A check found damage."""

    exit_code = 1


class RefusedError(LlmrunError):
    """Refused before anything was started."""

    exit_code = 3


class RunFailedError(LlmrunError):
    """The run failed; it can be resumed."""

    exit_code = 4


class NothingComparedError(LlmrunError):
    """A comparison found nothing that both sides hold: neither equal nor different."""

    exit_code = EXIT_NOTHING_COMPARED

    def as_json(self) -> dict[str, Any]:
        """The error as a JSON object, with `equal: null` as in a verdict."""
        return {**super().as_json(), "equal": None}


class DiskFullError(RunFailedError):
    """The disk, a quota or a limit of file sizes is reached."""


class OtherRankError(RunFailedError):
    """Another rank failed or went away: a consequence, never the first cause."""


class PreemptedError(LlmrunError):
    """The run stopped on request after saving; it can be resumed."""

    exit_code = 75


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a config."""

    message: str
    key: str | None = None
    where: str | None = None
    hint: str | None = None


class ConfigError(InputError):
    """All problems of one config."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        count = len(problems)
        message = problems[0].message if count == 1 else f"{source} has {count} problems"
        super().__init__(message)
        self.source = source
        self.problems = tuple(problems)

    def as_json(self) -> dict[str, Any]:
        """The error as a JSON object, with one entry per problem."""
        problems = [vars(problem) for problem in self.problems]
        return {**super().as_json(), "problems": problems}


def error_of(report: dict[str, Any]) -> LlmrunError:
    """The error that `as_json` wrote, as the class that has its exit code."""
    kinds: dict[int, type[LlmrunError]] = {
        kind.exit_code: kind
        for kind in (DamagedError, InputError, RefusedError, RunFailedError, PreemptedError)
    }
    kind = kinds.get(report["exit_code"], LlmrunError)
    return kind(
        report["error"],
        where=report["where"],
        caused_by=report["caused_by"],
        hints=report["hints"],
    )
