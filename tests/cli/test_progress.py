"""Progress on stderr: in place on a terminal, a line per stage elsewhere."""

import pytest

from llmrun.cli.progress import StageReport


@pytest.fixture
def clock():
    """A clock that stands until it is told: clock.append(seconds)."""
    return [100.0]


def test_plain(capsys, clock):
    """Off a terminal each stage is said once, and again only after ten seconds."""
    report = StageReport(live=False, clock=lambda: clock[-1])
    report("reading", 1_000_000, 9_000_000)
    clock.append(109.9)
    report("reading", 2_000_000, 9_000_000)
    clock.append(110.0)
    report("reading", 3_000_000, 9_000_000)
    report("reading", 9_000_000, 9_000_000)
    report("tokenizing", 500_000, 9_000_000)

    assert capsys.readouterr().err == "reading 9.0 MB\nreading 3.0 of 9.0 MB\ntokenizing 9.0 MB\n"


def test_live(capsys, clock):
    """On a terminal one line is rewritten, not more than five times a second, and ends when all is done."""
    report = StageReport(live=True, clock=lambda: clock[-1])
    for done, time_s in ((1, 100.0), (2, 100.1), (3, 100.2), (9, 100.21)):
        clock.append(time_s)
        report("reading", done * 1_000_000, 9_000_000)

    assert capsys.readouterr().err == (
        "\r\x1b[Kreading 1.0 of 9.0 MB\r\x1b[Kreading 3.0 of 9.0 MB\r\x1b[Kreading 9.0 of 9.0 MB\n"
    )
