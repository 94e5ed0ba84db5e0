"""What is known of a running run, from the rows of its metrics.jsonl."""

from dataclasses import dataclass, field

from llmrun.metrics import names
from llmrun.metrics.figures import duration, rate
from llmrun.metrics.jsonl import Row, number

HISTORY_MAX = 512
"""Losses kept for the sparkline; beyond that every second one is let go."""

UNKNOWN = "-"


@dataclass(frozen=True)
class RunFacts:
    """What does not change while a run is shown.

    steps: the step at which the run ends.  device: what a rank computes on, `GPU` or `CPU rank`.
    grad_clip: the largest norm that an update keeps, None where nothing is clipped.
    """

    name: str
    steps: int
    device: str = "GPU"
    grad_clip: float | None = None


@dataclass
class RunView:
    """The newest numbers of a run, and the course of its loss.

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
        """Take in a row.  After a resume on the way, what was recorded from its step on is forgotten."""
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
        """One number of the newest row (or of `row`) in a format, `-` where it is not known."""
        row = row if row is not None else self.latest
        value = None if row is None else number(row.get(name))
        return UNKNOWN if value is None else format(value, form)

    def rate(self, name: str) -> str:
        """One number per second of the newest row."""
        value = None if self.latest is None else number(self.latest.get(name))
        return UNKNOWN if value is None else rate(value)

    def seconds_left(self) -> float | None:
        """Time to the last step at the speed of the last steps; None where that is not known."""
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
        return UNKNOWN if left is None else duration(left)
