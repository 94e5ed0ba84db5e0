"""How the command line speaks: data on stdout, all else on stderr, colour only where it helps.

Everything reads without colour.  Each stream is coloured by itself, and only on a terminal, unless NO_COLOR is
set and not empty, TERM is `dumb`, or `--no-color` was given (which sets NO_COLOR).
"""

import json
import os
import re
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, TextIO

from llmrun.errors import ConfigError, LlmrunError, Problem

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"error:": "1;31", "warning:": "1;33", "hint:": "36", "-->": "36", "Caused by:": "1"}
"""ANSI styles of the words that begin a line of a message."""

_LEADING_WORD = re.compile(rf"^( *)({'|'.join(STYLES)})", re.MULTILINE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


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
    """Say something on stderr."""
    sys.stderr.write(f"{_coloured(text, sys.stderr)}\n")
    sys.stderr.flush()


def warn(message: str, *hints: str) -> None:
    """Warn on stderr: one statement, lower-case start, no final period; then hints."""
    note("\n".join([f"warning: {printable(message)}", *(f"  hint: {printable(hint)}" for hint in hints)]))


def fail(error: LlmrunError, as_json: bool = False) -> int:
    """Print an error on stderr, as text or as one JSON object; returns its exit code."""
    note(
        json.dumps(error.as_json(), indent=2, ensure_ascii=not _is_utf8(sys.stderr))
        if as_json
        else render_error(error)
    )
    return error.exit_code


def render_error(error: LlmrunError) -> str:
    """An error as plain text: statement, where, causes, an empty line, hints."""
    if isinstance(error, ConfigError):
        return _render_problems(error)
    where = [f"  --> {error.where}"] if error.where else []
    causes = [f"  Caused by: {cause}" for cause in error.caused_by]
    return _paragraphs([f"error: {error.message}", *where, *causes], error.hints)


def _render_problems(error: ConfigError) -> str:
    """All problems of a config: one like any other error, many under a header with their count."""
    if len(error.problems) == 1:
        (problem,) = error.problems
        hints = [problem.hint] if problem.hint else []
        return _paragraphs([f"error: {problem.message}", *_place(problem, "  ")], hints)
    repeated = Counter(problem.hint for problem in error.problems if problem.hint)
    shared = [hint for hint, count in repeated.items() if count > 1]
    lines = [f"error: {error.message}"]
    for problem in error.problems:
        own_hint = problem.hint if problem.hint and problem.hint not in shared else None
        lines += ["", f"  {problem.message}", *_place(problem, "    ")]
        lines += [f"    hint: {own_hint}"] if own_hint else []
    return _paragraphs(lines, shared)


def _place(problem: Problem, indent: str) -> list[str]:
    """Where a problem lies: file, line and key, whichever are known."""
    where, key = problem.where or "", problem.key or ""
    place = where if where.endswith(key) else f"{where}  {key}".strip()
    return [f"{indent}--> {place}"] if place else []


def _paragraphs(lines: list[str], hints: Any) -> str:
    """Lines, then an empty line and each different hint once."""
    unique = list(dict.fromkeys(hints))
    block = ["", *(f"hint: {hint}" for hint in unique)] if unique else []
    return printable("\n".join([*lines, *block]))


def printable(text: str) -> str:
    """`text` with control characters written out, so that a file's content cannot drive the terminal."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)


def counted(count: int, noun: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def colours(stream: TextIO) -> bool:
    """Whether `stream` shows colour."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not plain and stream.isatty()


def _coloured(text: str, stream: TextIO) -> str:
    """`text` with the leading word of each line in its colour, where the stream shows any."""
    if not colours(stream):
        return text
    return _LEADING_WORD.sub(lambda m: f"{m[1]}\x1b[{STYLES[m[2]]}m{m[2]}\x1b[0m", text)


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
