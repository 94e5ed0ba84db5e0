"""The results of a replay and of a bisection, and their JSON."""

from dataclasses import dataclass
from typing import Any, Literal

from llmrun.provenance.fingerprint import Change
from llmrun.run.trace import TraceEntry
from llmrun.storage.ledger.compare import RecordDifference
from llmrun.verify.replay.execute import ComparedCheckpoint, ExecutedSteps
from llmrun.verify.replay.plan import FRACTIONS, Draw, escape_of
from llmrun.verify.report import Verdict
from llmrun.verify.tensor_distance import ElementDistance


@dataclass(frozen=True)
class ReplayReport:
    """The result of a replay.

    verdict:  whether all records were equal, and the first difference; `a` is the run.
    executed: the executed steps, in order.
    draw:     the windows, if they were drawn.
    D:        the number of ranks that executed.
    """

    verdict: Verdict
    executed: tuple[ExecutedSteps, ...]
    draw: Draw | None
    D: int

    @property
    def checkpoints(self) -> tuple[ComparedCheckpoint, ...]:
        """The run's checkpoints that executed states were compared with."""
        return tuple(compared for steps in self.executed for compared in steps.checkpoints)

    def as_json(self) -> dict[str, Any]:
        """The keys of `llmrun verify`, and those of a replay under `replay`."""
        return {
            **self.verdict.as_json(),
            "replay": {
                "D": self.D,
                "executed": [_executed_json(steps) for steps in self.executed],
                "windows": None if self.draw is None else _draw_json(self.draw),
            },
        }


def _executed_json(steps: ExecutedSteps) -> dict[str, Any]:
    start = steps.planned.start
    return {
        "from_step": start.step,
        "checkpoint": None if start.path is None else start.path.name,
        "until_step": steps.planned.until_step,
        "equal_steps": steps.n_equal,
        "step_seconds": steps.step_seconds,
        "training_step_seconds": steps.training_step_seconds,
        "wall_seconds": steps.wall_seconds,
        "checkpoints": [
            {
                "checkpoint": compared.name,
                "tensors": compared.n_tensors,
                "differing": list(compared.differing),
            }
            for compared in steps.checkpoints
        ],
    }


def _draw_json(draw: Draw) -> dict[str, Any]:
    """The windows, and the chances that falsified steps are in none of them."""
    return {
        "count": len(draw.windows),
        "length": draw.length,
        "seed": draw.seed,
        "of": draw.n_blocks,
        "drawn": [{"first_step": first, "last_step": last} for first, last in draw.windows],
        "escape": [
            {
                "fraction": fraction,
                "steps": escape.n_falsified,
                "at_most": escape.at_most,
                "if_spread": escape.if_spread,
            }
            for fraction in FRACTIONS
            for escape in [escape_of(draw, fraction)]
        ],
    }


Conclusion = Literal[
    "settings", "nondeterministic", "not_reproduced", "outside_modules", "equal",
    "runs_equal", "nothing_compared", "no_module",
]  # fmt: skip
"""What a bisection shows.  The last three are concluded without executing anything."""

SAME_SETTINGS = ("first", "second")
"""The labels of two executions of one run's steps."""


@dataclass(frozen=True)
class Bisection:
    """The comparison of two executions of the same steps.

    steps:      the steps that were executed.
    labels:     of the two executions: A and B, or `first` and `second` under the same settings.
    n_tensors:  digests that were compared, up to the first difference.
    entry:      the first tensor that differs, as the second execution made it; None if none does.
    distance:   the distance of this tensor; None if one of the executions did not make it.
    difference: the first difference between the records of the two executions.
    recorded:   by label, the first difference between a run's record (a) and its execution here (b).
    is_nondeterministic: a third execution, under the settings of the first, differs from the first.
    """

    steps: range
    labels: tuple[str, str]
    n_tensors: int
    entry: TraceEntry | None
    distance: ElementDistance | None
    difference: RecordDifference | None
    recorded: dict[str, RecordDifference | None]
    is_nondeterministic: bool = False

    @property
    def same_settings(self) -> bool:
        """Whether both executed one run's steps under its own settings."""
        return self.labels == SAME_SETTINGS

    @property
    def not_reproduced(self) -> dict[str, RecordDifference]:
        """By label, the first difference from the record of those executions that do not give it."""
        return {label: found for label, found in self.recorded.items() if found is not None}

    @property
    def conclusion(self) -> Conclusion:
        """What follows from the two executions."""
        if self.entry is not None:
            if self.is_nondeterministic or self.same_settings:
                return "nondeterministic"
            return "not_reproduced" if self.not_reproduced else "settings"
        if self.difference is not None:
            return "outside_modules"
        return "not_reproduced" if self.not_reproduced else "equal"


@dataclass(frozen=True)
class BisectReport:
    """The result of `llmrun bisect`.

    verdict:   the comparison; for two runs that of `llmrun verify A B`.
    bisection: None if no module can be the cause.
    settings:  the settings in which the two executions differ.
    notes:     settings that could not be restored as they were recorded.
    two_runs:  whether two runs were given.
    """

    verdict: Verdict
    bisection: Bisection | None
    settings: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    two_runs: bool = True

    @property
    def conclusion(self) -> Conclusion:
        """What the bisection shows, or why there was none."""
        if self.bisection is not None:
            return self.bisection.conclusion
        if self.verdict.finding is not None:
            return "no_module"
        return "runs_equal" if self.verdict.equal else "nothing_compared"

    @property
    def message(self) -> str:
        """The conclusion in one sentence."""
        if self.bisection is not None:
            return describe(self.bisection)
        finding = self.verdict.finding
        if finding is None:
            found = "A and B are equal" if self.verdict.equal else "nothing of A and B could be compared"
            return f"nothing to bisect: {found}"
        what = "damaged" if finding.quantity is None else f"different in {finding.quantity} first"
        return f"nothing to bisect: A and B are {what}, which no module causes"

    def as_json(self) -> dict[str, Any]:
        """The keys of `llmrun verify`, and those of a bisection under `bisect`."""
        found = self.bisection
        entry, distance = (None, None) if found is None else (found.entry, found.distance)
        return {
            **self.verdict.as_json(),
            "bisect": {
                "conclusion": self.conclusion,
                "message": self.message,
                "steps": [] if found is None else list(found.steps),
                "tensors_compared": 0 if found is None else found.n_tensors,
                "module": None if entry is None else entry.module,
                "first": None if entry is None else _entry_json(entry),
                "distance": None if distance is None else distance.as_json(),
                "settings": [str(change) for change in self.settings],
                "as_recorded": {} if found is None else {k: d is None for k, d in found.recorded.items()},
                "nondeterministic": False if found is None else found.is_nondeterministic,
            },
        }


def _entry_json(entry: TraceEntry) -> dict[str, Any]:
    """A tensor of the trace, without its digest."""
    return {
        "step": entry.step,
        "micro_batch": entry.micro_batch,
        "phase": entry.phase,
        "module": entry.module,
        "what": entry.what,
        "dtype": entry.dtype,
        "shape": list(entry.shape),
    }


def describe(found: Bisection) -> str:
    """The conclusion of a bisection in one sentence."""
    if found.entry is None:
        return _describe_equal_tensors(found)
    where = (
        f"{module_name(found.entry.module)}: {found.entry.what}, {found.entry.phase} pass of micro-batch "
        f"{found.entry.micro_batch} in step {found.entry.step:,}"
    )
    if found.conclusion == "nondeterministic":
        return f"{where}; the same settings give other bits: this kernel is not deterministic here, or hardware erred"
    if found.conclusion == "not_reproduced":
        return f"{where}; but the record of {' and '.join(found.not_reproduced)} is not reproduced"
    return f"{where}; both executions reproduce their records, so the settings in which they differ are the cause"


def _describe_equal_tensors(found: Bisection) -> str:
    """The conclusion if no tensor of a module differs."""
    if found.difference is not None:
        return (
            f"every tensor that modules hand on is equal; {found.difference.quantity} differs after that: in the sums of "
            "gradients, or in the update"
        )
    equal = "both executions are equal in every tensor"
    missed = found.not_reproduced
    if not missed:
        return f"{equal}, and reproduce what was recorded"
    differs = {label: f"step {d.step:,} differs in {d.quantity}" for label, d in missed.items()}
    if found.same_settings:
        return f"{equal}, but do not reproduce what was recorded: {next(iter(differs.values()))}"
    if len(missed) == 1:
        (label,) = missed
        (kept,) = set(found.labels) - {label}
        return (
            f"{equal}, and reproduce the record of {kept}; the record of {label} is not reproduced: hardware erred, "
            "a record was edited, or something that the fingerprint does not cover was different"
        )
    named = ", ".join(f"{label} ({text})" for label, text in differs.items())
    return f"{equal}, but reproduce neither record: {named}"


def module_name(module: str) -> str:
    """A module's dotted name; the model itself has none."""
    return module or "the model itself, outside its modules"
