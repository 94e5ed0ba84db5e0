"""The live view of a run: a panel on a terminal, one plain line per interval off it."""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from llmrun.storage.metrics import names
from llmrun.storage.metrics.jsonl import Row, number
from llmrun.text import format_duration

BARS = "▁▂▃▄▅▆▇█"


def rate(value: float) -> str:
    """A number per second, with separators and three digits at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as at most `width` bars, oldest first, each bar the mean of its share; finite ones only."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite or width < 1:
        return ""
    n_bars = min(width, len(finite))
    edges = [bar * len(finite) // n_bars for bar in range(n_bars + 1)]
    shares = [finite[start:stop] for start, stop in pairwise(edges)]
    means = [math.fsum(share) / len(share) for share in shares]
    lowest, highest = min(means), max(means)
    span = highest - lowest or 1.0
    return "".join(BARS[round((mean - lowest) / span * (len(BARS) - 1))] for mean in means)


HISTORY_MAX = 512
"""Losses kept for the sparkline; beyond that every second one is let go."""

UNKNOWN = "-"


@dataclass(frozen=True)
class RunFacts:
    """What does not change while a run is shown.

    steps: the step at which the run ends.  device: what a rank computes on, `GPU` or `CPU rank`.
    grad_clip: the largest norm that an update keeps, None if nothing is clipped.
    """

    name: str
    steps: int
    device: str = "GPU"
    grad_clip: float | None = None


@dataclass
class RunView:
    """The newest numbers of a run, and the history of its loss.

    is_watched: whether a baseline has been seen in its rows.
    """

    facts: RunFacts
    latest: Row | None = None
    evaluated: Row | None = None
    checkpoint_step: int | None = None
    losses: list[tuple[int, float]] = field(default_factory=list)
    is_watched: bool = False
    _stride: int = 1

    def add(self, row: Row) -> None:
        """Take in a row.  After a resume, rows from its first step on are dropped."""
        step = row[names.STEP]
        if self.latest is not None and step <= self.latest[names.STEP]:
            self.losses = [entry for entry in self.losses if entry[0] < step]
            if self.evaluated is not None and self.evaluated[names.STEP] >= step:
                self.evaluated = None
        self.latest = row
        self.is_watched = self.is_watched or names.BASELINE_Z in row
        if row.get(names.VAL_LOSS) is not None:
            self.evaluated = row
        loss = number(row.get(names.LOSS_SMOOTH))
        if loss is not None and step % self._stride == 0:
            self.losses.append((step, loss))
            if len(self.losses) > HISTORY_MAX:
                self._stride *= 2
                self.losses = [entry for entry in self.losses if entry[0] % self._stride == 0]

    @property
    def step(self) -> int:
        """The newest recorded step, 0 before the first."""
        return 0 if self.latest is None else int(self.latest[names.STEP])

    def text(self, name: str, form: str, row: Row | None = None) -> str:
        """One number of the newest row (or of `row`) in a format, `-` if it is not known."""
        row = row if row is not None else self.latest
        value = None if row is None else number(row.get(name))
        return UNKNOWN if value is None else format(value, form)

    def rate(self, name: str) -> str:
        """One number per second of the newest row."""
        value = None if self.latest is None else number(self.latest.get(name))
        return UNKNOWN if value is None else rate(value)

    def seconds_left(self) -> float | None:
        """Time to the last step at the speed of the last steps; None if that is not known."""
        if self.latest is None:
            return None
        tokens, speed = (
            number(self.latest.get(names.TOKENS)),
            number(self.latest.get(names.TOTAL_TOKENS_PER_SECOND)),
        )
        if not tokens or not speed:
            return None
        return (self.facts.steps - self.step) * (tokens / self.step) / speed

    def time_left(self) -> str:
        """`seconds_left` in words."""
        left = self.seconds_left()
        return UNKNOWN if left is None else format_duration(left)


if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

PLAIN_INTERVAL_S = 10.0
REDRAW_INTERVAL_S = 0.2
PANEL_WIDTH_MAX = 100
SPARKLINE_WIDTH = 32


def can_animate(console: "Console") -> bool:
    """Whether the stream is a terminal that can move its cursor.

    Asked of the stream itself: rich also says yes if FORCE_COLOR is set, as it often is in CI.
    """
    return console.file.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


class Display:
    """Shows one run.  `close` leaves the last numbers on the screen."""

    def __init__(
        self,
        facts: RunFacts,
        console: "Console",
        interval_s: float = PLAIN_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.view = RunView(facts)
        self._console = console
        self._clock = clock
        self._live = _start_live(console) if can_animate(console) else None
        self._interval_s = interval_s if self._live is None else REDRAW_INTERVAL_S
        self._shown_at: float | None = None
        self._shown_step = 0
        self.warned: set[str] = set()

    def add(self, rows: Sequence[Row]) -> None:
        """Take in new rows and show them if it is time to."""
        for row in rows:
            self.view.add(row)
            if self._live is None and row.get(names.VAL_LOSS) is not None:
                self.notify(evaluation_line(self.view))
        if rows and (self._shown_at is None or self._clock() - self._shown_at >= self._interval_s):
            self._show()

    def checkpoint_saved(self, step: int) -> None:
        """Show that the checkpoint of `step` is committed."""
        if step == self.view.checkpoint_step:
            return
        self.view.checkpoint_step = step
        if self._live is None:
            self.notify(f"checkpoint saved at step {step:,}")
        else:
            self._show()

    def warn(self, message: str) -> None:
        """One line that warns, at once."""
        self.warned.add(message)
        self.notify(f"warning: {message}")

    def notify(self, text: str) -> None:
        """One line of plain text that stays, above the panel if there is one."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Show the last numbers and leave them there."""
        if self.view.step > self._shown_step:
            self._show()
        if self._live is not None:
            self._live.stop()

    def _show(self) -> None:
        self._shown_at = self._clock()
        self._shown_step = self.view.step
        if self._live is None:
            self.notify(step_line(self.view))
        else:
            self._live.update(panel(self.view, self._console), refresh=True)


def _start_live(console: "Console") -> "Live":
    from rich.live import Live

    # No thread of its own: it would redraw old numbers and outlive a launcher that is killed.
    live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    live.start()
    return live


def step_line(view: RunView) -> str:
    """The newest numbers as one plain line."""
    parts = [
        f"step {view.step:,}/{view.facts.steps:,}",
        loss_text(view),
        f"learning_rate {view.text(names.LEARNING_RATE, '.3g')}",
        f"grad_norm {view.text(names.GRAD_NORM, '.3g')}",
        speed_text(view),
        f"{view.time_left()} left",
    ]
    if view.is_watched:
        parts.insert(2, f"baseline {baseline_text(view)}")
    return "  ".join(parts)


def loss_text(view: RunView) -> str:
    """The loss, its moving average and, if known, bits per byte of text."""
    known = view.latest is not None and view.latest.get(names.BITS_PER_BYTE) is not None
    bits = f", {view.text(names.BITS_PER_BYTE, '.2f')} bits per byte" if known else ""
    return f"loss {view.text(names.LOSS, '.4f')} (average {view.text(names.LOSS_SMOOTH, '.4f')}{bits})"


def baseline_text(view: RunView) -> str:
    """The baseline's band at the newest step, and where the smoothed loss lies."""
    low, high = view.text(names.BASELINE_LOW, ".4f"), view.text(names.BASELINE_HIGH, ".4f")
    if low == UNKNOWN:
        return "has no such step"
    return f"{low} … {high}  z {view.text(names.BASELINE_Z, '+.1f')}"


def evaluation_line(view: RunView) -> str:
    """The newest evaluation as one plain line."""
    return f"step {view.step:,}/{view.facts.steps:,}  {evaluation_text(view)}"


def evaluation_text(view: RunView) -> str:
    """val_loss, val_ppl and, if known, bits per byte."""
    row = view.evaluated
    if row is None:
        return "-"
    text = f"val_ppl {view.text(names.VAL_PPL, '.4g', row)}  val_loss {view.text(names.VAL_LOSS, '.4f', row)}"
    if row.get(names.VAL_BITS_PER_BYTE) is not None:
        text += f"  bits per byte {view.text(names.VAL_BITS_PER_BYTE, '.3f', row)}"
    return text


def speed_text(view: RunView) -> str:
    """Tokens per second and MFU."""
    return (
        f"tokens/s {view.rate(names.TOKENS_PER_SECOND_PER_GPU)} per {view.facts.device}, "
        f"{view.rate(names.TOTAL_TOKENS_PER_SECOND)} total  MFU {view.text(names.MFU, '.1%')}"
    )


def panel(view: RunView, console: "Console") -> "RenderableType":
    """The panel, as wide as the console and no wider than 100 columns."""
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(ratio=1)
    for name, value in panel_rows(view, SPARKLINE_WIDTH if console.encoding.startswith("utf") else 0):
        table.add_row(name, Text(value))
    title = Text(f" {view.facts.name}  step {view.step:,}/{view.facts.steps:,} ", style="bold")
    bar = ProgressBar(total=view.facts.steps, completed=view.step)
    body = Table.grid(expand=True)
    body.add_row(bar)
    body.add_row(table)
    return Panel(body, title=title, title_align="left", width=min(console.width, PANEL_WIDTH_MAX))


def panel_rows(view: RunView, sparkline_width: int) -> list[tuple[str, str]]:
    """The lines of the panel, as (name, text)."""
    history = sparkline([loss for _, loss in view.losses], sparkline_width)
    clip = view.facts.grad_clip
    clipped = "" if clip is None else f", clipped at {clip:g}"
    evaluated = evaluation_text(view)
    if view.evaluated is not None:
        evaluated += f"  (step {view.evaluated[names.STEP]:,})"
    saved = "none yet" if view.checkpoint_step is None else f"saved at step {view.checkpoint_step:,}"
    watched = [("baseline", baseline_text(view))] if view.is_watched else []
    return [
        ("loss", f"{view.text(names.LOSS, '.4f')}  average {view.text(names.LOSS_SMOOTH, '.4f')}  {history}"),
        *watched,
        ("validation", evaluated),
        ("learning_rate", view.text(names.LEARNING_RATE, ".3g")),
        ("grad_norm", f"{view.text(names.GRAD_NORM, '.3g')}  (before clipping{clipped})"),
        ("speed", speed_text(view)),
        ("time left", view.time_left()),
        ("checkpoint", saved),
    ]
