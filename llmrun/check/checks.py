"""Runs a check: inspects the model, executes a reference and its variants, and compares them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from llmrun.check.differences import difference_between, saved_states
from llmrun.check.inspected import findings_of_inspection
from llmrun.check.report import CheckedProperty, CheckReport, Measured
from llmrun.check.scratch import Execution, Portion, ScratchRuns, V, Variant
from llmrun.errors import InputError, LlmrunError
from llmrun.launch.model_facts import refuse_unshardable
from llmrun.run.inspection import Inspection
from llmrun.storage.checkpoint.layout import steps_in

OnExecution = Callable[[str, int, int], None]
"""Receives (title, executions before this one, expected executions)."""

EXPECTED_EXECUTIONS = 9

INSPECTED = Variant("inspecting the model", hash_seed="1")
SECOND = Variant("a second execution", num_workers=2, hash_seed="1")
REFERENCE = Variant("the reference")
AGAIN = Variant("once more with the same settings", is_apart=True)
WITH_WORKERS = Variant("2 loader workers", num_workers=2)
KILLED = Variant("killed after step 1")
RESUMED = Variant("resumed")

VARIANTS = (
    ("ranks", "D = 1 equals D = 2", Variant("D = 2", D=2)),
    ("uneven_ranks", f"D = 1 equals D = 3 of {V} lanes", Variant("D = 3", D=3)),
    ("strategy", "replicate equals shard", Variant("shard on D = 2", D=2, strategy="shard")),
    ("recomputed", "recomputed blocks equal", Variant("recomputed blocks", recomputes=True)),
)
"""(name, title, variant) of the properties that one execution shows by itself."""

TWO_EXECUTIONS = ("two_executions", "two executions equal")
HASH_SEED = ("hash_seed", "PYTHONHASHSEED 0 and 1 equal")
WORKERS = ("loader_workers", "loader workers 0 and 2 equal")
RESUMES = ("killed_and_resumed", "killed and resumed equals straight")
LOADED = ("saved_and_loaded", "saved and loaded equal")


class Check:
    """One check.

    runs:   where variants are executed.  steps: of each execution, at least 2.
    report: without findings.
    """

    def __init__(self, runs: ScratchRuns, steps: int, report: CheckReport, on_execution: OnExecution) -> None:
        self._runs, self._steps, self._report, self._on_execution = runs, steps, report, on_execution
        self._n_executions = 0

    def run(self) -> CheckReport:
        """All executions and their verdicts.  Raises the workers' error if the reference fails with nothing found."""
        begun_s = time.monotonic()
        inspected = self._execute("inspect", INSPECTED, Portion(until_step=0, inspected=True))
        if inspected.inspection is None:
            raise _error_of(inspected)
        findings = findings_of_inspection(inspected.inspection, self._report.device)
        peak = None
        if inspected.inspection.error is None and not inspected.inspection.refused:
            compared, peak = self._compared(is_sound=all(each.outcome != "no" for each in findings))
            findings += compared
        else:
            findings += _not_judged(self._all(), "no step can be executed")
        return replace(
            self._report,
            findings=tuple(findings),
            measured=_measured(inspected.inspection, self._report, peak),
            wall_seconds=time.monotonic() - begun_s,
        )

    def _execute(self, name: str, variant: Variant, part: Portion) -> Execution:
        self._on_execution(
            variant.title, self._n_executions, max(EXPECTED_EXECUTIONS, self._n_executions + 1)
        )
        self._n_executions += 1
        return self._runs.execute(name, variant, part)

    def _compared(self, *, is_sound: bool) -> tuple[list[CheckedProperty], int | None]:
        """The findings of all executions, and the peak memory of the reference.

        is_sound: whether nothing was found so far; then an execution that fails is an error, not a finding.
        """
        whole = Portion(until_step=self._steps)
        executions = []
        for name, variant in (("second", SECOND), ("reference", REFERENCE)):
            execution = self._execute(name, variant, replace(whole, saves=variant is REFERENCE))
            if not execution.is_complete:
                if is_sound:
                    raise _error_of(execution)
                return _not_judged(self._all(), f"{variant.title}: {_error_of(execution).message}"), None
            executions.append(execution)
        second, reference = executions
        self._runs.compare_with_checkpoints_of(reference, self._steps)
        findings = self._repeated(reference, second)
        if findings[0].outcome == "no":
            findings += _not_judged(self._later(), "two executions with the same settings differ")
        else:
            findings += [self._variant(*each, reference) for each in VARIANTS]
            findings += self._resumed(reference)
        return findings, reference.peak_memory_bytes

    @staticmethod
    def _later() -> list[tuple[str, str]]:
        """Names and titles of the properties that only a deterministic model can have."""
        return [*((name, title) for name, title, _ in VARIANTS), RESUMES, LOADED]

    @classmethod
    def _all(cls) -> list[tuple[str, str]]:
        """Names and titles of all properties that executions show."""
        return [TWO_EXECUTIONS, HASH_SEED, WORKERS, *cls._later()]

    def _repeated(self, reference: Execution, second: Execution) -> list[CheckedProperty]:
        """Whether executions repeat.  The second one has other loader workers and another hash seed.

        Only if it differs, further executions tell why.
        """
        found = difference_between(reference, second)
        if found is None:
            return [
                CheckedProperty(name, title, "yes") for name, title in (TWO_EXECUTIONS, HASH_SEED, WORKERS)
            ]
        whole = Portion(until_step=self._steps)
        again = self._judged(*TWO_EXECUTIONS, reference, self._execute("again", AGAIN, whole))
        if again.outcome == "no":
            return [
                again,
                *_not_judged([HASH_SEED, WORKERS], "two executions with the same settings differ"),
            ]
        workers = self._judged(*WORKERS, reference, self._execute("workers", WITH_WORKERS, whole))
        if workers.outcome == "no":
            return [
                again,
                CheckedProperty(*HASH_SEED, "not_judged", ("loader workers change bits",)),
                workers,
            ]
        return [again, CheckedProperty.of_difference(*HASH_SEED, found), workers]

    def _variant(self, name: str, title: str, variant: Variant, reference: Execution) -> CheckedProperty:
        """Whether a variant equals the reference, if this machine can execute it."""
        if self._runs.ranks_most < variant.D:
            return CheckedProperty(name, title, "not_judged", (f"it needs {variant.D} GPUs",))
        resolved = self._runs.scratch.resolved
        if variant.recomputes and not resolved.model.blocks:
            return CheckedProperty(name, title, "not_judged", ("the model has no blocks",))
        if variant.strategy == "shard" and resolved.facts is not None:
            try:
                refuse_unshardable(resolved.facts)
            except InputError as refused:
                return CheckedProperty(name, title, "not_judged", (refused.message,))
        return self._judged(name, title, reference, self._execute(name, variant, Portion(self._steps)))

    @staticmethod
    def _judged(name: str, title: str, reference: Execution, other: Execution) -> CheckedProperty:
        """Whether an execution equals the reference."""
        found = difference_between(reference, other)
        if found is not None:
            return CheckedProperty.of_difference(name, title, found)
        return CheckedProperty(name, title, "yes") if other.is_complete else _not_executed(name, title, other)

    def _resumed(self, reference: Execution) -> list[CheckedProperty]:
        """Kill an execution after step 1, resume it, and compare what it loaded and what it went on to compute."""
        killed = self._execute("killed", KILLED, Portion(self._steps, saves=True, killed_after=1))
        if steps_in(killed.run.checkpoints) != [1]:
            reason = ("no state was saved",)
            return [_not_executed(*RESUMES, killed), CheckedProperty(*LOADED, "not_judged", reason)]
        resumed = self._execute("killed", RESUMED, Portion(self._steps, segment=2, from_step=1))
        resumes = self._judged(*RESUMES, reference, resumed)
        states = dict(saved_states(resumed))
        if 1 not in states:
            return [resumes, CheckedProperty(*LOADED, "not_judged", ("the saved state was not loaded",))]
        if states[1]:
            details = tuple(f"{name} differs" for name in states[1])
            return [resumes, CheckedProperty(*LOADED, "no", details, step=1)]
        return [resumes, CheckedProperty(*LOADED, "yes")]


def _not_judged(properties: Sequence[tuple[str, str]], reason: str) -> list[CheckedProperty]:
    """CheckedProperties of properties that nothing is known about."""
    return [CheckedProperty(name, title, "not_judged", (reason,)) for name, title in properties]


def _not_executed(name: str, title: str, execution: Execution) -> CheckedProperty:
    """The finding of an execution that failed."""
    error = _error_of(execution)
    return CheckedProperty(
        name, title, "no", (f"{execution.variant.title}: {error.message}", *error.caused_by)
    )


def _error_of(execution: Execution) -> LlmrunError:
    """Why an execution ended early."""
    error = execution.end.error
    assert error is not None, f"{execution.run.path} ended early: {execution.end.why}"
    return error


def _measured(inspection: Inspection, report: CheckReport, peak_memory_bytes: int | None) -> Measured:
    flops = None if inspection.flops is None else inspection.flops // inspection.tokens
    return replace(
        report.measured,
        flops_per_token=flops,
        peak_memory_bytes=peak_memory_bytes,
        frozen=inspection.frozen,
    )
