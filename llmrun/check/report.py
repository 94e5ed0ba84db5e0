"""The report of a check: one line for each property, with its verdict and the place that breaks it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llmrun.check.differences import Difference, named
from llmrun.run.inspection import CodePlace

Outcome = Literal["yes", "no", "warning", "not_judged"]


@dataclass(frozen=True)
class CheckedProperty:
    """One property.

    name:    stable, for scripts.  title: for the screen.
    outcome: whether it holds; a warning does not break the promise here.
    details: what was found, one line each, the most important first.
    phase, module, source, step, micro_batch: the place; None if there is none or it is not known.
    """

    name: str
    title: str
    outcome: Outcome
    details: tuple[str, ...] = ()
    phase: str | None = None
    module: str | None = None
    source: str | None = None
    step: int | None = None
    micro_batch: int | None = None

    @classmethod
    def at(cls, name: str, title: str, place: CodePlace, details: Sequence[str]) -> "CheckedProperty":
        """A property that the code at `place` breaks."""
        return cls(name, title, "no", tuple(details), place.phase, place.module, place.source)

    @classmethod
    def of_difference(cls, name: str, title: str, found: Difference) -> "CheckedProperty":
        """A property that two executions do not have."""
        return cls(
            name,
            title,
            "no",
            (str(found),),
            found.phase,
            found.module,
            step=found.step,
            micro_batch=found.micro_batch,
        )

    def as_json(self) -> dict[str, Any]:
        """All fields."""
        return {
            "name": self.name,
            "verdict": self.outcome,
            "details": list(self.details),
            "phase": self.phase,
            "module": self.module,
            "source": self.source,
            "step": self.step,
            "micro_batch": self.micro_batch,
        }


@dataclass(frozen=True)
class Measured:
    """Measurements of the scratch run; None for what is not known.

    flops_per_token:   forward and backward, by torch's counter; it does not count what it has no formula for.
    stated_flops_per_token: what llmrun knows of the model.
    peak_memory_bytes: of one rank on its device in the reference execution.
    frozen:            names of parameters that require no gradient.
    """

    flops_per_token: int | None = None
    stated_flops_per_token: int | None = None
    peak_memory_bytes: int | None = None
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckReport:
    """The result of a check.

    config:   the file as the user named it.
    steps:    executed.  micro_batches: in each.  tokens: in a micro-batch.
    changes:  numeric values that differ from the config's, in words.
    data:     the dataset's path; None: random tokens.
    """

    config: str
    device: str
    steps: int
    micro_batches: int
    tokens: int
    changes: tuple[str, ...]
    data: str | None
    findings: tuple[CheckedProperty, ...] = ()
    measured: Measured = field(default_factory=Measured)
    wall_seconds: float = 0.0
    kept: str | None = None

    @property
    def broken(self) -> tuple[CheckedProperty, ...]:
        """The properties that do not hold."""
        return tuple(each for each in self.findings if each.outcome == "no")

    @property
    def first(self) -> CheckedProperty | None:
        """The property that names what breaks the promise best: the first one with a module, else the first."""
        with_module = [each for each in self.broken if each.module is not None]
        return next(iter([*with_module, *self.broken]), None)

    @property
    def conclusion(self) -> str:
        """The verdict in one sentence."""
        first = self.first
        if first is None:
            return "the model keeps the promise: every execution gave the same bits"
        if first.module is None:
            return f"{first.title}: no"
        where = f"{first.phase} of {named(first.module)}" if first.phase else named(first.module)
        return f"first module: {where} ({first.title}: no)"

    def as_json(self) -> dict[str, Any]:
        """The report with stable keys."""
        return {
            "config": self.config,
            "keeps_promise": self.first is None,
            "first": None if self.first is None else self.first.as_json(),
            "conclusion": self.conclusion,
            "findings": [each.as_json() for each in self.findings],
            "device": self.device,
            "steps": self.steps,
            "micro_batches": self.micro_batches,
            "micro_batch_tokens": self.tokens,
            "changes": list(self.changes),
            "data": self.data,
            "FLOPs_per_token": self.measured.flops_per_token,
            "stated_FLOPs_per_token": self.measured.stated_flops_per_token,
            "peak_memory_bytes": self.measured.peak_memory_bytes,
            "frozen_parameters": list(self.measured.frozen),
            "wall_seconds": round(self.wall_seconds, 3),
            "kept": self.kept,
        }
