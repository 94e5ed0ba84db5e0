import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from llmrun.cli.live_view import Display, RunFacts, RunView, can_animate, panel, panel_rows

SCRIPT = Path(__file__).parent / "show_run.py"


def row(step: int, **more: object) -> dict[str, object]:
    return {
        "step": step,
        "tokens": step * 16_384,
        "loss": 8.0 / step,
        "loss_smooth": 9.0 / step,
        "learning_rate": 0.001,
        "grad_norm": 0.9375,
        "tokens_per_second_per_gpu": 5120.0,
        "total_tokens_per_second": 10_240.0,
        "mfu": 0.4125,
        **more,
    }


def plain_output(
    tmp_path: Path, step_s: float, interval_s: float, rows: list[dict[str, object]]
) -> list[str]:
    """The lines that a display writes into a file, with a clock that goes `step_s` forward a row."""
    now = 0.0
    with (tmp_path / "output").open("w", encoding="utf-8") as file:
        display = Display(RunFacts("demo", 8), Console(file=file, width=60), interval_s, clock=lambda: now)
        for one in rows:
            display.add([one])
            now += step_s
        display.checkpoint_saved(4)
        display.checkpoint_saved(4)
        display.close()
    return (tmp_path / "output").read_text().splitlines()


def test_plain_line_has_every_number(tmp_path: Path) -> None:
    """Off a terminal one line holds all figures, never wrapped."""
    [line, saved] = plain_output(tmp_path, 1.0, 10.0, [row(2)])

    assert line == (
        "step 2/8  loss 4.0000 (average 4.5000)  learning_rate 0.001  grad_norm 0.938  "
        "tokens/s 5,120 per GPU, 10,240 total  MFU 41.2%  10 s left"
    )
    assert saved == "checkpoint saved at step 4"


def test_bits_per_byte_stands_beside_the_loss(tmp_path: Path) -> None:
    """Where the text's bytes are known, the loss is also shown in a unit that tokenizers share."""
    [line, _] = plain_output(tmp_path, 1.0, 10.0, [row(2, bits_per_byte=1.625)])
    assert "loss 4.0000 (average 4.5000, 1.62 bits per byte)" in line


def watched_row(step: int, **more: object) -> dict[str, object]:
    return row(step, baseline_low=4.25, baseline_high=4.75, baseline_z=-0.5, **more)


def test_the_band_stands_beside_the_loss(tmp_path: Path) -> None:
    """A watched run shows the band and its z; a step that the baseline lacks says so."""
    [line, _] = plain_output(tmp_path, 1.0, 10.0, [watched_row(2)])
    assert "(average 4.5000)  baseline 4.2500 … 4.7500  z -0.5  learning_rate" in line

    lines = plain_output(tmp_path, 1.0, 0.5, [watched_row(2), row(3)])
    assert "baseline has no such step" in lines[1]


def test_a_warning_is_shown_at_once_and_stays(tmp_path: Path) -> None:
    """Between two plain lines of the interval, in full, and not again for the row that keeps it."""
    message = "step 2: the smoothed loss 4.5000 has left the baseline's band, above its mean 3.0000"
    with (tmp_path / "output").open("w", encoding="utf-8") as file:
        display = Display(RunFacts("demo", 8), Console(file=file, width=60), 100.0, clock=lambda: 0.0)
        display.add([row(1)])
        display.warn(message)
        display.add([row(2, warnings=[message])])
    lines = (tmp_path / "output").read_text().splitlines()

    assert lines.count(f"warning: {message}") == 1
    assert display.warned == {message}


def test_the_panel_has_a_line_for_the_band() -> None:
    """Only if there is one."""
    view = RunView(RunFacts("demo", 8))
    view.add(row(1))
    assert "baseline" not in dict(panel_rows(view, 8))

    view.add(watched_row(2))
    assert dict(panel_rows(view, 8))["baseline"] == "4.2500 … 4.7500  z -0.5"


def test_plain_lines_come_once_an_interval(tmp_path: Path) -> None:
    """Eight steps of 1 s at an interval of 3 s: steps 1, 4, 7, then the last at the end, and each evaluation."""
    rows = [row(step) for step in range(1, 9)]
    rows[1] |= {"val_loss": 2.0, "val_ppl": 7.389, "val_bits_per_byte": 0.7}
    lines = plain_output(tmp_path, 1.0, 3.0, rows)

    assert [line.split("  ")[0] for line in lines if "average" in line] == [
        "step 1/8",
        "step 4/8",
        "step 7/8",
        "step 8/8",
    ]
    assert lines[1] == "step 2/8  val_ppl 7.389  val_loss 2.0000  bits per byte 0.700"
    assert lines.count("checkpoint saved at step 4") == 1


def test_no_escape_sequence_off_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FORCE_COLOR may colour, but a file is never animated."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = "\n".join(plain_output(tmp_path, 1.0, 10.0, [row(1), row(2)]))

    assert "\x1b" not in text
    assert "\r" not in text


def test_unknown_figures_are_dashes(tmp_path: Path) -> None:
    """A run whose peak is unknown has no MFU, and says so with a dash."""
    [line, _] = plain_output(tmp_path, 1.0, 10.0, [row(1, mfu=None, total_tokens_per_second=None)])

    assert "- total  MFU -  - left" in line


@pytest.mark.parametrize("width", [64, 80, 200])
def test_panel_holds_every_name_at_any_width(width: int) -> None:
    """Narrow or wide, the panel shows all lines and is never wider than the console or 100 columns."""
    view = RunView(RunFacts("demo", 8, "CPU rank", grad_clip=1.0))
    for step in range(1, 5):
        view.add(row(step, val_loss=1.0, val_ppl=2.718))
    view.checkpoint_step = 4
    console = Console(file=io.TextIOWrapper(io.BytesIO(), "utf-8"), width=width)
    with console.capture() as capture:
        console.print(panel(view, console))
    shown = capture.get()

    assert max(len(line) for line in shown.splitlines()) == min(width, 100)
    for name in (
        "demo",
        "4/8",
        "loss",
        "average",
        "val_ppl",
        "learning_rate",
        "grad_norm",
        "before clipping",
    ):
        assert name in shown
    for name in ("tokens/s", "per CPU rank", "MFU", "time left", "checkpoint", "▁"):
        assert name in shown


def test_panel_without_unicode() -> None:
    """A terminal that knows only ASCII gets ASCII."""
    view = RunView(RunFacts("demo", 8))
    view.add(row(1))
    console = Console(file=io.TextIOWrapper(io.BytesIO(), "ascii"), width=80)
    with console.capture() as capture:
        console.print(panel(view, console))

    assert capture.get().isascii()


def run_in_terminal(**environment: str) -> str:
    """What show_run.py writes to a real pseudo-terminal."""
    leader, follower = pty.openpty()
    variables = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    variables |= {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", **environment}
    shown = subprocess.Popen([sys.executable, str(SCRIPT)], stderr=follower, env=variables)
    os.close(follower)
    output = b""
    while block := read_or_nothing(leader):
        output += block
    os.close(leader)
    assert shown.wait() == 0
    return output.decode()


def read_or_nothing(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:
        # Linux says EIO when the other side of a pseudo-terminal is closed.
        return b""


def test_terminal_gets_a_panel() -> None:
    """On a terminal the panel is drawn in place, ends with the last step, and the cursor comes back."""
    output = run_in_terminal()

    assert "╭─" in output
    assert "\x1b[1A" in output
    assert "8/8" in output.rsplit("╭─", 1)[1]
    assert "a line that stays" in output
    assert output.rfind("\x1b[?25h") > output.rfind("\x1b[?25l") >= 0


def test_no_color_is_respected() -> None:
    """With NO_COLOR no colour is sent, the panel stays."""
    output = run_in_terminal(NO_COLOR="1")

    assert "╭─" in output
    assert "\x1b[36m" in run_in_terminal()
    assert "\x1b[36m" not in output


def test_dumb_terminal_gets_plain_lines() -> None:
    """TERM=dumb means no animation."""
    output = run_in_terminal(TERM="dumb")

    assert "\x1b" not in output
    assert "step 1/8  loss" in output


def test_can_animate_asks_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is no terminal, whatever rich was told."""
    monkeypatch.setenv("TERM", "xterm")
    with (tmp_path / "output").open("w") as file:
        assert not can_animate(Console(file=file, force_terminal=True))
