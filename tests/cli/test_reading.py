"""The bar of long reads: on a terminal, for what is large, and gone afterwards."""

import io

import pytest
from rich.console import Console

from llmrun.cli.progress import LARGE_BYTES, BytesBar
from llmrun.errors import DamagedError

BIG = 4 * LARGE_BYTES


def screen(*, terminal: bool) -> Console:
    """A screen that remembers."""
    environment = {"TERM": "xterm"}
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=100, color_system=None, _environ=environment
    )


def shown(console: Console) -> str:
    """All that was written."""
    return console.file.getvalue()


def test_a_large_read_shows_how_far_it_is():
    """Name, bytes done of all, and the bar is taken away at the end: the last thing is to erase its line."""
    console = screen(terminal=True)
    with BytesBar("verifying checkpoint", console) as bar:
        bar(BIG // 2, BIG)
        bar._live.refresh()
        bar(BIG, BIG)
        assert bar._live is None

    assert "verifying checkpoint" in shown(console)
    assert "0.5/1.1 GB" in shown(console)
    assert shown(console).endswith("\x1b[2K")


def test_the_next_checkpoint_has_a_bar_of_its_own():
    """Another total begins anew; what was left unread of the one before does not hold the screen."""
    console = screen(terminal=True)
    with BytesBar("verifying checkpoint", console) as bar:
        bar(BIG // 2, BIG)
        first = bar._live
        bar(1, 2 * BIG)

        assert bar._live is not first
        assert not first.live.is_started
        assert bar._live.tasks[0].total == 2 * BIG


@pytest.mark.parametrize(("terminal", "total"), [(False, BIG), (True, LARGE_BYTES - 1)])
def test_nothing_is_shown_off_a_terminal_or_for_little(terminal, total):
    """A log file gets no bar, nor does what is read in a moment."""
    console = screen(terminal=terminal)
    with BytesBar("verifying checkpoint", console) as bar:
        bar(total // 2, total)
        bar(total, total)

    assert shown(console) == ""


def test_an_error_takes_the_bar_away():
    """A damaged file ends the reading in the middle: the message gets a free line."""
    console = screen(terminal=True)
    bar = BytesBar("verifying checkpoint", console)
    with pytest.raises(DamagedError), bar:  # noqa: PT012  the bar is the context that is tested
        bar(1, BIG)
        raise DamagedError("damaged")

    assert bar._live is None
    assert shown(console).endswith("\x1b[2K")
