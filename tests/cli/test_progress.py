"""Progress on stderr: a bar on a terminal, a line per stage and every ten seconds elsewhere."""

import io

import pytest
from rich.console import Console

from llmrun.cli.progress import LARGE_BYTES, PLAIN_INTERVAL_S, ProgressDisplay, byte_progress
from llmrun.errors import DamagedError

BIG = 4 * LARGE_BYTES
ERASED_LINE = "\x1b[2K"


def screen(*, terminal: bool) -> Console:
    """A screen that remembers."""
    environment = {"TERM": "xterm"}
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=100, color_system=None, _environ=environment
    )


def shown(console: Console) -> str:
    """All that was written."""
    return console.file.getvalue()


def test_plain(capsys):
    """Off a terminal each stage is printed once, and again only after ten seconds."""
    clock = [100.0]
    display = ProgressDisplay(screen(terminal=False), clock=lambda: clock[-1])
    display("reading", 1_000_000, 9_000_000)
    clock.append(99.9 + PLAIN_INTERVAL_S)
    display("reading", 2_000_000, 9_000_000)
    clock.append(100.0 + PLAIN_INTERVAL_S)
    display("reading", 3_000_000, 9_000_000)
    display("reading", 9_000_000, 9_000_000)
    display("merging", 5, 300, "merges")

    assert capsys.readouterr().err.splitlines() == [
        "reading: 9.00 MB",
        "reading: 3.00 MB of 9.00 MB",
        "merging: 300 merges",
    ]


def test_bar(capsys):
    """On a terminal a bar shows stage and amount, a new stage has a bar of its own, and the last one is removed."""
    console = screen(terminal=True)
    with ProgressDisplay(console) as display:
        display("reading", 1, 9_000_000)
        display("tokenizing", 4_000_000, 9_000_000)
        display("tokenizing", 9_000_000, 9_000_000)

    assert all(word in shown(console) for word in ("reading", "tokenizing", "9.00 MB of 9.00 MB"))
    assert shown(console).endswith(ERASED_LINE)
    assert capsys.readouterr().err == ""


def test_large_read():
    """Reading a large checkpoint shows its progress, and the bar is removed at the end."""
    console = screen(terminal=True)
    with byte_progress("verifying checkpoint", console) as progress:
        progress(BIG // 2, BIG)
        progress(1, 2 * BIG)
        progress(2 * BIG, 2 * BIG)

    assert "verifying checkpoint" in shown(console)
    assert "of 2.15 GB" in shown(console)
    assert shown(console).endswith(ERASED_LINE)


@pytest.mark.parametrize("terminal", [False, True])
def test_small_read(terminal, capsys):
    """What is read in a moment shows nothing."""
    console = screen(terminal=terminal)
    with byte_progress("verifying checkpoint", console) as progress:
        progress(LARGE_BYTES - 1, LARGE_BYTES - 1)

    assert shown(console) == capsys.readouterr().err == ""


def test_an_error_removes_the_bar():
    """A damaged file ends the reading in the middle: the message gets a free line."""
    console = screen(terminal=True)
    with pytest.raises(DamagedError), byte_progress("verifying checkpoint", console) as progress:  # noqa: PT012
        progress(1, BIG)
        raise DamagedError("damaged")

    assert shown(console).endswith(ERASED_LINE)
