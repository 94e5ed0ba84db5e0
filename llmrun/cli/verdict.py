"""A verdict on the screen: plain lines off a terminal, wrapped and coloured on one."""

import sys
import textwrap
from collections.abc import Sequence

from llmrun.cli import console

LABEL_WIDTH = 13
_WRAPPED = ("diagnosis", "damage", "note", "different:", "damaged:")
_STYLES = {"equal": "bold green", "different": "bold red", "damaged": "bold red"}


def show(lines: Sequence[str]) -> None:
    """Print the lines of a verdict on stdout; each begins with a label of 13 columns, the last one is the verdict."""
    lines = [console.printable(line) for line in lines]
    if not sys.stdout.isatty():
        console.out("\n".join(lines))
        return
    from rich.text import Text

    terminal = console.rich_console(sys.stdout)
    for line in lines:
        word = line.split(":")[0].split(" ")[0]
        text = Text(_fitted(line, terminal.width))
        if word in _STYLES:
            text.stylize(_STYLES[word])
        else:
            text.stylize("bold", 0, LABEL_WIDTH)
        terminal.print(text, soft_wrap=True)


def _fitted(line: str, width: int) -> str:
    """Prose wrapped behind its label; a row of a table stays in one piece."""
    if not line.startswith(_WRAPPED) or len(line) <= width:
        return line
    indent = " " * LABEL_WIDTH
    return textwrap.fill(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
