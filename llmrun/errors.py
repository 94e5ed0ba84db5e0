"""The error tree: everything that a user can cause, with its exit code and its kind for `--json`.

LlmrunError           bug               70
├── InputError        input              2   the user's input is wrong: config, quantity, path, dataset, argument
│   └── ConfigError   config             2   one or many problems of a config, all shown at once
├── DamagedError      damaged            1   a check found damage
├── RefusedError      refused            3   refused before anything was started
├── RunFailedError    run_failed         4   the run failed and can be resumed
│   ├── DiskFullError disk_full          4
│   └── OtherRankError other_rank        4
├── NothingComparedError nothing_compared 5  a comparison found nothing to compare: neither equal nor different
└── PreemptedError    preempted         75   stopped on request after saving: run `llmrun resume`

Errors carry kinds and fields; `llmrun.cli.console` makes text of them, nothing else does, and nothing decides by
that text.  Invariants of our own are plain `assert`; a broken one is a bug (exit 70).
"""

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

EXIT_BUG = 70
EXIT_DIFFERENT = 1
EXIT_NOTHING_COMPARED = 5

TOO_MANY_FILES = frozenset({errno.EMFILE, errno.ENFILE})
"""The limit of open files of this process, or of the whole system, is reached: no file is at fault."""

HintKind = Literal["advice", "command", "setting"]


class Hint(str):
    """What to try next, as one line of text.

    kind:    `command` (run it), `setting` (change a config key or an option), `advice` (anything else).
    subject: the config key or option of a setting, the path that a command is about; None if there is none.

    A plain string given to an error becomes an advice.
    """

    __slots__ = ("kind", "subject")
    kind: HintKind
    subject: str | None

    def __new__(cls, text: str, kind: HintKind = "advice", subject: str | None = None) -> Self:
        """Make a hint; `command` and `setting` read better at the call."""
        hint = super().__new__(cls, text)
        hint.kind, hint.subject = kind, subject
        return hint

    @classmethod
    def setting(cls, text: str, key: str) -> Self:
        """A hint to change the config key or the option `key`."""
        return cls(text, "setting", key)

    @classmethod
    def command(cls, text: str, path: Path | str | None = None) -> Self:
        """A hint to run a command about `path`."""
        return cls(text, "command", None if path is None else str(path))

    @classmethod
    def of(cls, text: str) -> "Hint":
        """`text` if it is a Hint already, else an advice."""
        return text if isinstance(text, Hint) else Hint(text)

    def __reduce__(self) -> tuple[type["Hint"], tuple[str, HintKind, str | None]]:
        return Hint, (str(self), self.kind, self.subject)

    def as_json(self) -> dict[str, Any]:
        """`text`, `kind` and `subject`."""
        return {"text": str(self), "kind": self.kind, "subject": self.subject}


@dataclass(frozen=True)
class Place:
    """Where something is wrong; at least one field is given.

    file:   a file or directory.              line: in that file, from 1.
    key:    a config key in the user's spelling.
    option: an option of the command line, with its value if that matters: `--D`, `--set batch.D`.
    note:   what the file is, if its name does not tell: `traceback`.
    """

    file: str | None = None
    line: int | None = None
    key: str | None = None
    option: str | None = None
    note: str | None = None

    @classmethod
    def of(cls, where: "Place | Path | str | None") -> "Place | None":
        """`where` as a Place; a path or a bare string names a file."""
        return where if where is None or isinstance(where, Place) else Place(file=str(where))

    def __str__(self) -> str:
        file = None if self.file is None else self.file if self.line is None else f"{self.file}:{self.line}"
        # `--set batch.D` names the key already.
        key = None if self.key is not None and (self.option or "").endswith(self.key) else self.key
        note = None if self.note is None else f"({self.note})"
        return "  ".join(part for part in (self.option, file, key, note) if part is not None)

    def as_json(self) -> dict[str, Any]:
        """All fields; null for those that are not given."""
        return asdict(self)


DESCRIPTORS_HINT = "raise the limit of open files, for example `ulimit -n 65536`"
DESCRIPTORS_HINT_SYSTEM = "raise the limit of open files of the machine: `sysctl fs.file-max`"

SHARED_MEMORY_HINTS = (
    Hint.setting("`--set data.num_workers=0` needs no shared memory (the same bits)", "data.num_workers"),
    Hint("enlarge it: `mount -o remount,size=1G /dev/shm`, or `--shm-size=1g` for a container"),
)


def hints_for(error: OSError) -> list[str]:
    """What helps against an error of the system, whatever file it names; empty if only the file can be mended."""
    if error.errno == errno.EMFILE:
        return [DESCRIPTORS_HINT]
    return [DESCRIPTORS_HINT_SYSTEM] if error.errno == errno.ENFILE else []


class LlmrunError(Exception):
    """An error that a user can cause.

    message:   one statement in the user's words and numbers, lower-case start, no final period.
    where:     the file, line, config key or option that it is about; a bare string names a file.
    caused_by: further lines, each printed as `  Caused by: …`.
    hints:     commands or settings to try, each printed as `hint: …`.
    """

    exit_code: ClassVar[int] = EXIT_BUG
    kind: ClassVar[str] = "bug"

    def __init__(
        self,
        message: str,
        *,
        where: Place | Path | str | None = None,
        caused_by: Sequence[str] = (),
        hints: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = Place.of(where)
        self.caused_by = tuple(caused_by)
        self.hints = tuple(Hint.of(hint) for hint in hints)

    def as_json(self) -> dict[str, Any]:
        """The error as a JSON object, for `--json` and for the way from a worker to its launcher."""
        return {
            "kind": self.kind,
            "message": self.message,
            "where": None if self.where is None else self.where.as_json(),
            "caused_by": list(self.caused_by),
            "hints": [hint.as_json() for hint in self.hints],
            "exit_code": self.exit_code,
        }


class InputError(LlmrunError):
    """The user's input is wrong."""

    exit_code = 2
    kind = "input"


class DamagedError(LlmrunError):
    """A check found damage."""

    exit_code = 1
    kind = "damaged"


class RefusedError(LlmrunError):
    """Refused before anything was started."""

    exit_code = 3
    kind = "refused"


class RunFailedError(LlmrunError):
    """The run failed; it can be resumed."""

    exit_code = 4
    kind = "run_failed"


class NothingComparedError(LlmrunError):
    """A comparison found nothing that both sides hold: neither equal nor different."""

    exit_code = EXIT_NOTHING_COMPARED
    kind = "nothing_compared"

    def as_json(self) -> dict[str, Any]:
        """The error as a JSON object, with `equal: null` as in a verdict."""
        return {**super().as_json(), "equal": None}


class DiskFullError(RunFailedError):
    """The disk, a quota or a limit of file sizes is reached."""

    kind = "disk_full"


class OtherRankError(RunFailedError):
    """Another rank failed or went away: a consequence, never the first cause."""

    kind = "other_rank"


class PreemptedError(LlmrunError):
    """The run stopped on request after saving; it can be resumed."""

    exit_code = 75
    kind = "preempted"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a config.

    key: the dotted key in the user's spelling; None if the problem is not about one.
    where: the file and line, or the option, that gave the key.
    """

    message: str
    key: str | None = None
    where: Place | None = None
    hint: str | None = None

    def as_json(self) -> dict[str, Any]:
        """`message`, `key`, `where` and `hint`."""
        return {
            "message": self.message,
            "key": self.key,
            "where": None if self.where is None else self.where.as_json(),
            "hint": None if self.hint is None else Hint.of(self.hint).as_json(),
        }


class ConfigError(InputError):
    """All problems of one config."""

    kind = "config"

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        count = len(problems)
        message = problems[0].message if count == 1 else f"{source} has {count} problems"
        super().__init__(message)
        self.source = source
        self.problems = tuple(problems)

    def as_json(self) -> dict[str, Any]:
        """The error as a JSON object, with one entry per problem."""
        return {**super().as_json(), "problems": [problem.as_json() for problem in self.problems]}


_CLASSES: Mapping[str, type[LlmrunError]] = {
    cls.kind: cls
    for cls in (
        InputError,
        DamagedError,
        RefusedError,
        RunFailedError,
        DiskFullError,
        OtherRankError,
        PreemptedError,
    )
}
_KINDS_OF_CODES = {1: "damaged", 2: "input", 3: "refused", 4: "run_failed", 75: "preempted"}


def error_of(report: Mapping[str, Any]) -> LlmrunError:
    """The error that `as_json` wrote, as the class of its kind.

    Also reads the form without kinds that runs made before hold: `error` for `message`, strings for `where` and
    `hints`.
    """
    kind = report.get("kind") or _KINDS_OF_CODES.get(report["exit_code"], "")
    where = report["where"]
    return _CLASSES.get(kind, LlmrunError)(
        report["message"] if "message" in report else report["error"],
        where=Place(**where) if isinstance(where, Mapping) else where,
        caused_by=report["caused_by"],
        hints=[
            Hint(hint["text"], hint["kind"], hint["subject"]) if isinstance(hint, Mapping) else hint
            for hint in report["hints"]
        ],
    )
