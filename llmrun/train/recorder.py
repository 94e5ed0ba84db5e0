"""What rank 0 writes down of every step: ledger, audit, metrics."""

import time
from collections.abc import Sequence
from typing import Any

from llmrun import __version__
from llmrun.errors import RunFailedError
from llmrun.ledger.audit import Audit
from llmrun.ledger.combine import combine_digests
from llmrun.ledger.file import LedgerWriter
from llmrun.ledger.record import Record, tensors_due
from llmrun.ledger.tensors import write_tensors
from llmrun.metrics import names
from llmrun.metrics.sinks import Sinks
from llmrun.metrics.smooth import MovingAverage
from llmrun.metrics.throughput import Throughput
from llmrun.reduce.layout import Slot
from llmrun.run.directory import RunDirectory
from llmrun.train.digests import by_name, moments_by_name
from llmrun.train.progress import Progress
from llmrun.train.step import StepFacts

PRODUCER = f"llmrun {__version__}"


class Recorder:
    """Appends each step to the ledger and the metrics, and compares it with what was recorded earlier.

    tails:           cut off this run's ledger: one of those that hold a step must agree with it.
    twin:            the ledger of an earlier run of the same fingerprint.
    bytes_per_token: of the training text.
    """

    def __init__(
        self,
        run: RunDirectory,
        ledger: LedgerWriter,
        slots: Sequence[Slot],
        sinks: Sinks,
        throughput: Throughput,
        tails: Sequence[Audit],
        twin: Audit | None,
        progress: Progress,
        bytes_per_token: float,
    ) -> None:
        self.ledger = ledger
        self.smooth = MovingAverage()
        self._run, self._slots, self._sinks, self._throughput = run, slots, sinks, throughput
        self._tails, self._twin, self._progress = list(tails), twin, progress
        self._bytes_per_token = bytes_per_token

    def initial(self, weight_digests: list[int]) -> None:
        """Record 0: the initial weights."""
        weights = by_name(self._slots, weight_digests)
        record = self.ledger.append(Record(step=0, weights_digest=combine_digests(weights)))
        write_tensors(self._run.ledger_tensors, 0, {"weights": weights})
        self._compare(record, {"weights": weights})

    def step(self, facts: StepFacts, tokens: int, begun_s: float) -> dict[str, Any]:
        """Record one step; returns the metrics so far.

        tokens: seen after the step.  begun_s: reading of time.perf_counter when the step began.
        Raises RunFailedError where a recomputed step differs from what was recorded before.
        """
        ended_s = time.perf_counter()
        rates = self._throughput.step(begun_s, ended_s, facts.tokens)
        tensors = {
            "gradients": by_name(self._slots, facts.gradient_digests),
            "weights": by_name(self._slots, facts.weight_digests),
        }
        if facts.moment_digests is not None:
            tensors["optimizer"] = moments_by_name(self._slots, facts.moment_digests)
        optimizer = tensors.get("optimizer")
        record = self.ledger.append(
            Record(
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
            write_tensors(self._run.ledger_tensors, facts.step, tensors)
        self._compare(record, tensors)
        return {
            names.STEP: facts.step,
            names.TOKENS: tokens,
            names.LOSS: facts.loss,
            names.LOSS_SMOOTH: self.smooth.add(facts.loss),
            names.BITS_PER_BYTE: names.bits_per_byte(facts.loss, self._bytes_per_token),
            names.LEARNING_RATE: facts.learning_rate,
            names.GRAD_NORM: facts.grad_norm,
            names.TOKENS_PER_SECOND_PER_GPU: rates.tokens_per_second_per_gpu,
            names.TOTAL_TOKENS_PER_SECOND: rates.total_tokens_per_second,
            names.STEP_SECONDS: ended_s - begun_s,
            names.MFU: rates.mfu,
        }

    def emit(self, metrics: dict[str, Any]) -> None:
        """Write one step's metrics to all sinks."""
        self._sinks.record(metrics)

    def sync(self) -> None:
        """Force everything to disk: before a checkpoint that names the chain is committed."""
        self.ledger.sync()
        self._sinks.sync()

    def close(self) -> None:
        """Force everything to disk."""
        self.ledger.sync()
        self.ledger.close()
        self._sinks.close()

    def _compare(self, record: Record, tensors: dict[str, Any]) -> None:
        """Hold the record against the cut tails (a difference stops the run) and an earlier twin (it warns)."""
        self._prove(record, tensors)
        if self._twin is not None and (found := self._twin.check(record)) is not None:
            write_tensors(self._run.ledger_tensors, record.step, tensors)
            self._progress.remarks.append(
                f"step {record.step} differs from an earlier run of the same fingerprint: {found.quantity}"
            )
            self._twin = None

    def _prove(self, record: Record, tensors: dict[str, Any]) -> None:
        """A tail that agrees proves the step, and the others are wrong; raises where none of several agrees.

        So a record that a memory error spoiled stops a run once, and the recomputation outvotes it.
        """
        found = [(tail, tail.check(record)) for tail in self._tails if record.step in tail.earlier.steps]
        wrong = [(tail, difference) for tail, difference in found if difference is not None]
        if found and len(wrong) == len(found):
            write_tensors(self._run.ledger_tensors, record.step, tensors)
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
            self._progress.remarks.append(
                f"{tail.earlier.path.name} is wrong from step {record.step} on ({difference.quantity}):"
                " another record of the step agrees with this one"
            )
