"""What rank 0 writes down of every step: ledger, audit, metrics."""

import time
from collections.abc import Sequence
from typing import Any

from llmrun import __version__
from llmrun.core.reduce.layout import Slot
from llmrun.core.state import by_name, moments_by_name
from llmrun.core.step import StepFacts
from llmrun.core.tensor_digest import combine_digests
from llmrun.errors import RunFailedError
from llmrun.run.directory import RunDirectory
from llmrun.run.lock import Fence
from llmrun.runtime.progress import Progress
from llmrun.storage.durable import DISK_FULL
from llmrun.storage.ledger.compare import Audit
from llmrun.storage.ledger.record import LedgerRecord, tensors_due
from llmrun.storage.ledger.tensors import write_tensors
from llmrun.storage.ledger.writer import LedgerWriter
from llmrun.storage.metrics import names
from llmrun.storage.metrics.loss_band import BaselineWatch
from llmrun.storage.metrics.sink import MetricsSinks
from llmrun.storage.metrics.throughput import MovingAverage, Throughput
from llmrun.text import command

PRODUCER = f"llmrun {__version__}"


class Recorder:
    """Appends each step to the ledger and the metrics, and compares it with what was recorded earlier.

    tails:           cut off this run's ledger: one of those that hold a step must agree with it.
    twin:            the ledger of an earlier run of the same fingerprint.
    stop_at_twin:    whether the first difference from the twin stops the run; else it is remarked.
    baseline:        watches the smoothed loss; None where no baseline was asked for.
    bytes_per_token: of the training text.
    fence:           asked before anything is written; raises RunFailedError if the run is another launcher's by now.

    What is remarked goes to the outcome, and at once into `warnings` of the next row of metrics.
    """

    def __init__(
        self,
        run: RunDirectory,
        ledger: LedgerWriter,
        slots: Sequence[Slot],
        sinks: MetricsSinks,
        throughput: Throughput,
        tails: Sequence[Audit],
        reference_run: Audit | None,
        progress: Progress,
        bytes_per_token: float,
        *,
        stop_at_reference: bool,
        baseline: BaselineWatch | None,
        fence: Fence,
    ) -> None:
        self.ledger = ledger
        self.smooth = MovingAverage()
        self._run, self._slots, self._sinks, self._throughput = run, slots, sinks, throughput
        self._tails, self._twin, self._progress = list(tails), reference_run, progress
        self._bytes_per_token = bytes_per_token
        self._stop_at_twin, self._baseline = stop_at_reference, baseline
        self._fence = fence
        self._n_remarks_told = 0

    def initial(self, weight_digests: list[int]) -> None:
        """Record 0: the initial weights."""
        weights = by_name(self._slots, weight_digests)
        record = self.ledger.append(LedgerRecord(step=0, weights_digest=combine_digests(weights)))
        self._keep_tensors(0, {"weights": weights})
        self._compare(record, {"weights": weights})

    def step(self, facts: StepFacts, tokens: int, begun_s: float) -> dict[str, Any]:
        """Record one step; returns the metrics so far.

        tokens: seen after the step.  begun_s: reading of time.perf_counter when the step began.
        Raises RunFailedError where a recomputed step differs from what was recorded before, or any from a twin
        at which the run is to stop.
        """
        ended_s = time.perf_counter()
        rates = self._throughput.step(begun_s, ended_s, facts.tokens)
        self._fence.check()
        tensors = {
            "gradients": by_name(self._slots, facts.gradient_digests),
            "weights": by_name(self._slots, facts.weight_digests),
        }
        if facts.moment_digests is not None:
            tensors["optimizer"] = moments_by_name(self._slots, facts.moment_digests)
        optimizer = tensors.get("optimizer")
        record = self.ledger.append(
            LedgerRecord(
                step=facts.step,
                tokens=tokens,
                loss=facts.loss,
                grad_norm=facts.grad_norm,
                learning_rate=facts.learning_rate,
                tokens_digest=facts.tokens_digest,
                gradients_digest=combine_digests(tensors["gradients"]),
                weights_digest=combine_digests(tensors["weights"]),
                optimizer_digest=None if optimizer is None else combine_digests(optimizer),
            )
        )
        if tensors_due(facts.step):
            self._keep_tensors(facts.step, tensors)
        self._compare(record, tensors)
        loss_smooth = self.smooth.add(facts.loss)
        return {
            names.STEP: facts.step,
            names.TOKENS: tokens,
            names.LOSS: facts.loss,
            names.LOSS_SMOOTH: loss_smooth,
            names.BITS_PER_BYTE: names.bits_per_byte(facts.loss, self._bytes_per_token),
            names.LEARNING_RATE: facts.learning_rate,
            names.GRAD_NORM: facts.grad_norm,
            names.TOKENS_PER_SECOND_PER_GPU: rates.tokens_per_second_per_gpu,
            names.TOTAL_TOKENS_PER_SECOND: rates.total_tokens_per_second,
            names.STEP_SECONDS: ended_s - begun_s,
            names.MFU: rates.mfu,
            **self._against_baseline(facts.step, loss_smooth),
        }

    def emit(self, metrics: dict[str, Any]) -> None:
        """Write one step's metrics to all sinks, with what was remarked since the last one."""
        self._fence.check()
        new = self._progress.remarks[self._n_remarks_told :]
        self._n_remarks_told += len(new)
        self._sinks.write({**metrics, names.WARNINGS: new} if new else metrics)

    def sync(self) -> None:
        """Force everything to disk: before a checkpoint that names the chain is committed."""
        self._fence.check(now=True)
        self.ledger.sync()
        self._sinks.sync()

    def close(self) -> None:
        """Force everything to disk."""
        self.ledger.sync()
        self.ledger.close()
        self._sinks.close()

    def _keep_tensors(self, step: int, tensors: dict[str, Any]) -> None:
        """Write per-tensor digests, which only help to point at a difference: a full disk does without."""
        try:
            write_tensors(self._run.ledger_tensors, step, tensors)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            self._progress.warn(
                f"the digests of single tensors of step {step} were not kept: {error.strerror}"
            )

    def _compare(self, record: LedgerRecord, tensors: dict[str, Any]) -> None:
        """Hold the record against the cut tails (a difference stops the run) and an earlier twin."""
        reference_run = self._twin
        holds = reference_run is not None and record.step in reference_run.earlier.steps
        found = None if reference_run is None else reference_run.check(record)
        self._prove(record, tensors, backed=holds and found is None)
        if reference_run is None or found is None:
            return
        self._keep_tensors(record.step, tensors)
        self._twin = None
        name = reference_run.earlier.path.parent.name
        message = f"step {record.step} differs from {name}, an earlier run of the same fingerprint: {found.quantity}"
        if self._stop_at_twin:
            raise RunFailedError(
                message,
                caused_by=["equal fingerprints must give equal bits: one of the two runs was computed wrong"],
                hints=[
                    f"`{command('llmrun', 'verify', reference_run.earlier.path.parent, self._run.path)}` says more",
                    "go on all the same: `llmrun resume RUN --set reproducibility.on_difference=warn`",
                ],
            )
        self._progress.warn(message)

    def _against_baseline(self, step: int, loss_smooth: float) -> dict[str, Any]:
        """What the row says of the baseline; a warning becomes a remark."""
        if self._baseline is None:
            return {}
        fields, warning = self._baseline.step(step, loss_smooth)
        if warning is not None:
            self._progress.warn(warning)
        return fields

    def _prove(self, record: LedgerRecord, tensors: dict[str, Any], *, backed: bool) -> None:
        """A tail that agrees proves the step, and the others are wrong; raises where none of several agrees.

        backed: whether a twin agrees, which then proves the step as a tail would.

        So a record that a memory error spoiled stops a run once, and the recomputation outvotes it.
        """
        found = [(tail, tail.check(record)) for tail in self._tails if record.step in tail.earlier.steps]
        wrong = [(tail, difference) for tail, difference in found if difference is not None]
        if found and len(wrong) == len(found) and not backed:
            self._keep_tensors(record.step, tensors)
            raise RunFailedError(
                f"step {record.step} was recomputed and differs from what this run recorded before:"
                f" {wrong[0][1].quantity}",
                caused_by=[
                    "equal fingerprints must give equal bits: hardware, memory or a kernel is at fault"
                ],
                hints=["resume on other hardware; the earlier record is kept beside the ledger"],
            )
        self._progress.proven_steps += bool(found) and record.step > 0
        for tail, difference in wrong:
            self._tails.remove(tail)
            self._progress.warn(
                f"{tail.earlier.path.name} is wrong from step {record.step} on ({difference.quantity}):"
                " another record of the step agrees with this one"
            )
