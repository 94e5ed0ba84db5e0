"""How the command line speaks: data on stdout, all else on stderr, colour only where it helps.

Everything reads without colour.  Each stream is coloured by itself, and only on a terminal, unless NO_COLOR is
set and not empty, TERM is `dumb`, or `--no-color` was given (which sets NO_COLOR).
"""

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TextIO

from llmrun.errors import ConfigError, LlmrunError, Place, Problem

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"error:": "1;31", "warning:": "1;33", "hint:": "36", "-->": "36", "Caused by:": "1"}
"""ANSI styles of the labels of a message."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Line:
    """One line of a message: an indented text after its label, which is coloured on a terminal.

    label: one of STYLES, or empty.
    """

    label: str = ""
    text: str = ""
    indent: int = 0

    def show(self, *, colour: bool) -> str:
        """The line as it is printed."""
        label = f"\x1b[{STYLES[self.label]}m{self.label}\x1b[0m" if colour and self.label else self.label
        return f"{' ' * self.indent}{' '.join(part for part in (label, printable(self.text)) if part)}"


def out(text: str = "") -> None:
    """Print data on stdout."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def emit_json(value: Any) -> None:
    """Print one JSON document on stdout.  Raises ValueError for NaN and infinities."""
    out(json.dumps(value, indent=2, ensure_ascii=not _is_utf8(sys.stdout), allow_nan=False))


def _is_utf8(stream: TextIO) -> bool:
    """Whether a stream takes every character.  Another one would write escapes that JSON does not have."""
    return (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"


def note(text: str) -> None:
    """Print one line, or several, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def warn(message: str, *hints: str) -> None:
    """Warn on stderr: one statement, lower-case start, no final period; then hints."""
    _note_lines([Line("warning:", message), *(Line("hint:", hint, 2) for hint in hints)])


def fail(error: LlmrunError, as_json: bool = False) -> int:
    """Print an error on stderr, as text or as one JSON object; returns its exit code."""
    if as_json:
        note(json.dumps(error.as_json(), indent=2, ensure_ascii=not _is_utf8(sys.stderr)))
    else:
        _note_lines(error_lines(error))
    return error.exit_code


def _note_lines(lines: Iterable[Line]) -> None:
    note("\n".join(line.show(colour=colours(sys.stderr)) for line in lines))


def render_error(error: LlmrunError) -> str:
    """An error as text without colour."""
    return "\n".join(line.show(colour=False) for line in error_lines(error))


def error_lines(error: LlmrunError) -> list[Line]:
    """An error for the screen: statement, place, causes, an empty line, hints."""
    if isinstance(error, ConfigError):
        return _problem_lines(error)
    return [
        Line("error:", error.message),
        *_place_lines(error.where, 2),
        *(Line("Caused by:", cause, 2) for cause in error.caused_by),
        *_hint_lines(error.hints),
    ]


def _problem_lines(error: ConfigError) -> list[Line]:
    """All problems of a config: one like any other error, several under a header with their count."""
    if len(error.problems) == 1:
        (problem,) = error.problems
        hints = [problem.hint] if problem.hint else []
        return [
            Line("error:", problem.message),
            *_place_lines(_place_of(problem), 2),
            *_hint_lines(hints),
        ]
    repeated = Counter(problem.hint for problem in error.problems if problem.hint)
    shared = [hint for hint, count in repeated.items() if count > 1]
    lines = [Line("error:", error.message)]
    for problem in error.problems:
        lines += [Line(), Line(text=problem.message, indent=2), *_place_lines(_place_of(problem), 4)]
        if problem.hint and problem.hint not in shared:
            lines.append(Line("hint:", problem.hint, 4))
    return [*lines, *_hint_lines(shared)]


def _place_of(problem: Problem) -> Place | None:
    """Where a problem lies: file, line and key, whichever are known."""
    if problem.key is None:
        return problem.where
    return replace(problem.where or Place(), key=problem.key)


def _place_lines(place: Place | None, indent: int) -> list[Line]:
    return [] if place is None else [Line("-->", str(place), indent)]


def _hint_lines(hints: Sequence[str]) -> list[Line]:
    """An empty line, then each different hint once."""
    return [Line(), *(Line("hint:", hint) for hint in dict.fromkeys(hints))] if hints else []


def printable(text: str) -> str:
    """`text` with control characters written out, so that a file's content cannot drive the terminal."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)


def colours(stream: TextIO) -> bool:
    """Whether `stream` shows colour."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not plain and stream.isatty()


def rich_console(stream: TextIO | None = None) -> "Console":
    """A rich console on `stream` (default stderr) that is a terminal exactly where the stream is one.

    rich and Typer would force a terminal under FORCE_COLOR, GITHUB_ACTIONS or PY_COLORS; we do not.
    """
    from rich.console import Console

    stream = stream or sys.stderr
    return Console(
        file=stream,
        force_terminal=stream.isatty() and os.environ.get("TERM") != "dumb",
        no_color=not colours(stream),
        highlight=False,
    )
