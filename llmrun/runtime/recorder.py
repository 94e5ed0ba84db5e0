"""What rank 0 records of every step: the ledger, its comparison with earlier ledgers, metrics."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from llmrun import __version__
from llmrun.core.combined_digest import TensorDigest, combine_digests
from llmrun.core.reduce.layout import Slot
from llmrun.core.state import WEIGHTS, by_name
from llmrun.core.step import StepResult
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

Groups = dict[str, dict[str, TensorDigest]]
"""Digests by group (gradients, weights, optimizer) and tensor."""

PRODUCER = f"llmrun {__version__}"


class Recorder:
    """Appends each step to the ledger and the metrics, and compares it with what was recorded earlier.

    tails:             cut off this run's ledger by a resume: a step that some of them hold must agree with one of them.
    reference:         the ledger of an earlier run of the same fingerprint.
    stop_at_reference: whether the first difference from the reference stops the run; else it is a warning.
    baseline:          watches the smoothed loss; None if no baseline was asked for.
    bytes_per_token:   of the training text.
    fence:             checked before every write; raises RunFailedError if another launcher has taken the run.

    Warnings go into the rank's outcome, and into the next row of metrics.
    """

    def __init__(
        self,
        run: RunDirectory,
        ledger: LedgerWriter,
        slots: Mapping[str, Sequence[Slot]],
        sinks: MetricsSinks,
        throughput: Throughput,
        tails: Sequence[Audit],
        reference: Audit | None,
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
        self._tails, self._reference, self._progress = list(tails), reference, progress
        self._bytes_per_token = bytes_per_token
        self._stop_at_reference, self._baseline = stop_at_reference, baseline
        self._fence = fence
        self._n_warnings_emitted = 0

    def initial(self, digests: Mapping[str, Sequence[int]]) -> None:
        """Append record 0.  digests: of the initial weights, by suffix as in `StepResult.state_digests`."""
        weights = by_name(self._slots, digests)
        record = self.ledger.append(LedgerRecord(step=0, weights_digest=combine_digests(weights)))
        self._write_tensors(0, {"weights": weights})
        self._compare(record, {"weights": weights})

    def step(self, result: StepResult, tokens: int, started_s: float) -> dict[str, Any]:
        """Append one step to the ledger; returns its metrics so far.

        tokens: seen after the step.  started_s: reading of time.perf_counter when the step started.
        Raises RunFailedError if a recomputed step differs from what was recorded before, or any from the reference if
        the run is to stop there.
        """
        ended_s = time.perf_counter()
        rates = self._throughput.step(started_s, ended_s, result.tokens)
        self._fence.check()
        groups = self._groups(result)
        digests = {group: combine_digests(tensors) for group, tensors in groups.items()}
        record = self.ledger.append(
            LedgerRecord(
                step=result.step,
                tokens=tokens,
                loss=result.loss,
                grad_norm=result.grad_norm,
                learning_rate=result.learning_rate,
                tokens_digest=result.tokens_digest,
                gradients_digest=digests["gradients"],
                weights_digest=digests["weights"],
                optimizer_digest=digests.get("optimizer"),
            )
        )
        if tensors_due(result.step):
            self._write_tensors(result.step, groups)
        self._compare(record, groups)
        loss_smooth = self.smooth.add(result.loss)
        return {
            names.STEP: result.step,
            names.TOKENS: tokens,
            names.LOSS: result.loss,
            names.LOSS_SMOOTH: loss_smooth,
            names.BITS_PER_BYTE: names.bits_per_byte(result.loss, self._bytes_per_token),
            names.LEARNING_RATE: result.learning_rate,
            names.GRAD_NORM: result.grad_norm,
            names.TOKENS_PER_SECOND_PER_GPU: rates.tokens_per_second_per_gpu,
            names.TOTAL_TOKENS_PER_SECOND: rates.total_tokens_per_second,
            names.STEP_SECONDS: ended_s - started_s,
            names.MFU: rates.mfu,
            **self._compare_with_baseline(result.step, loss_smooth),
        }

    def _groups(self, result: StepResult) -> Groups:
        """The digests of a step's tensors under the names of the ledger and of checkpoints."""
        weights = {WEIGHTS: result.state_digests[WEIGHTS]}
        moments = {suffix: found for suffix, found in result.state_digests.items() if suffix != WEIGHTS}
        groups = {
            "gradients": by_name(self._slots, {WEIGHTS: result.gradient_digests}),
            "weights": by_name(self._slots, weights),
        }
        return groups | {"optimizer": by_name(self._slots, moments)} if moments else groups

    def emit(self, metrics: dict[str, Any]) -> None:
        """Write one step's metrics to all sinks, with the warnings since the last row."""
        self._fence.check()
        new = self._progress.warnings[self._n_warnings_emitted :]
        self._n_warnings_emitted += len(new)
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

    def _write_tensors(self, step: int, groups: Groups) -> None:
        """Write per-tensor digests, which only help to locate a difference: on a full disk they are left out."""
        try:
            write_tensors(self._run.ledger_tensors, step, groups)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            self._progress.warn(f"cannot write the tensor digests of step {step}: {error.strerror}")

    def _compare(self, record: LedgerRecord, groups: Groups) -> None:
        """Compare the record with the reference and the cut tails."""
        reference, difference = self._reference, None
        confirmed = False
        if reference is not None and record.step in reference.earlier.steps:
            difference = reference.check(record)
            confirmed = difference is None
        self._compare_with_tails(record, groups, confirmed=confirmed)
        if reference is None or difference is None:
            return
        self._write_tensors(record.step, groups)
        self._reference = None
        earlier = reference.earlier.path.parent
        message = (
            f"step {record.step} differs in its {difference.quantity} from {earlier.name},"
            " an earlier run of the same fingerprint"
        )
        if self._stop_at_reference:
            raise RunFailedError(
                message,
                caused_by=["equal fingerprints must give equal bits: one of the two runs was computed wrong"],
                hints=[
                    f"to see where: `{command('llmrun', 'verify', earlier, self._run.path)}`",
                    "to continue: `llmrun resume RUN --set reproducibility.on_difference=warn`",
                ],
            )
        self._progress.warn(message)

    def _compare_with_tails(self, record: LedgerRecord, groups: Groups, *, confirmed: bool) -> None:
        """Compare a recomputed step with what this run recorded of it before.

        confirmed: whether the reference agrees with the step.
        Any record that agrees confirms the step, and those that differ are dropped with a warning; if none agrees the
        run stops.  So a record that a memory error spoiled stops a run once: the next resume agrees with the
        recomputation.
        """
        differences = {tail: tail.check(record) for tail in self._tails if record.step in tail.earlier.steps}
        wrong = {tail: difference for tail, difference in differences.items() if difference is not None}
        if wrong and len(wrong) == len(differences) and not confirmed:
            self._write_tensors(record.step, groups)
            raise RunFailedError(
                f"step {record.step} was recomputed and differs in its {next(iter(wrong.values())).quantity}"
                " from what this run recorded before",
                caused_by=[
                    "equal fingerprints must give equal bits: hardware, memory or a kernel is at fault"
                ],
                hints=[
                    "resume on other hardware: `llmrun resume RUN`; the earlier record is kept next to the ledger"
                ],
            )
        self._progress.proven_steps += bool(differences) and record.step > 0
        for tail, difference in wrong.items():
            self._tails.remove(tail)
            self._progress.warn(
                f"{tail.earlier.path.name} is wrong from step {record.step} on (its {difference.quantity} differs):"
                " another record of the step agrees with this one"
            )

    def _compare_with_baseline(self, step: int, loss_smooth: float) -> dict[str, Any]:
        """The metrics of the baseline comparison; warns once the loss leaves the band."""
        if self._baseline is None:
            return {}
        metrics, warning = self._baseline.step(step, loss_smooth)
        if warning is not None:
            self._progress.warn(warning)
        return metrics
