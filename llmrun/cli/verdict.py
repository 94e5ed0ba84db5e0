"""Prints a report with a verdict and ends the command with the verdict's exit code."""

import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from llmrun.cli import console

if TYPE_CHECKING:
    from llmrun.verify.render import ReportLine, Tone
    from llmrun.verify.report import Verdict

_STYLES: "dict[Tone, str]" = {"good": "bold green", "bad": "bold red", "neutral": "bold"}


def end_with(
    verdict: "Verdict", document: dict[str, Any], lines: "Sequence[ReportLine]", *, as_json: bool
) -> None:
    """Print `document` or `lines`; exit with 1 if the bits are not equal, with 5 if nothing was compared."""
    from llmrun.errors import EXIT_DIFFERENT, EXIT_NOTHING_COMPARED

    print_report(document, lines, as_json=as_json)
    if verdict.equal is None:
        raise typer.Exit(EXIT_NOTHING_COMPARED)
    if not verdict.equal:
        raise typer.Exit(EXIT_DIFFERENT)


def print_report(document: dict[str, Any], lines: "Sequence[ReportLine]", *, as_json: bool) -> None:
    """Print a report on stdout: as one JSON document, or as lines."""
    if as_json:
        console.emit_json(document)
    else:
        show(lines)


def show(lines: "Sequence[ReportLine]") -> None:
    """Print lines on stdout: plain, or wrapped and coloured if it is a terminal."""
    if not sys.stdout.isatty():
        console.out("\n".join(console.printable(str(line)) for line in lines))
        return
    from rich.text import Text

    from llmrun.verify.render import LABEL_WIDTH

    terminal = console.rich_console(sys.stdout)
    for line in lines:
        text = Text(_wrapped(line, terminal.width))
        if line.tone is not None:
            text.stylize(_STYLES[line.tone])
        elif line.label is not None:
            text.stylize("bold", 0, LABEL_WIDTH)
        terminal.print(text, soft_wrap=True)


def _wrapped(line: "ReportLine", width: int) -> str:
    """The line, wrapped to the right of its label if it is prose."""
    from llmrun.verify.render import LABEL_WIDTH

    text = console.printable(str(line))
    if not line.wraps or len(text) <= width:
        return text
    return textwrap.fill(
        text, width, subsequent_indent=" " * LABEL_WIDTH, break_long_words=False, break_on_hyphens=False
    )
