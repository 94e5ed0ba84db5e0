"""Compares two ledgers: the first step that differs, then the quantities in causal order; at once or step by step."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrun.storage.ledger.reader import LedgerReader
from llmrun.storage.ledger.record import BODY_WORDS, PRESENT_WORD, QUANTITIES, LedgerRecord

CAUSAL_ORDER = (
    ("tokens_digest", "data"),
    ("tokens", "data"),
    ("loss", "loss"),
    ("gradients_digest", "gradients"),
    ("grad_norm", "grad_norm"),
    ("learning_rate", "optimizer"),
    ("optimizer_digest", "optimizer"),
    ("weights_digest", "weights"),
)
"""Fields of a record, each with the quantity it belongs to; causes come before effects."""

RESULT_FIELDS = ("loss", "gradients_digest", "grad_norm", "optimizer_digest", "weights_digest")
"""Fields that depend on computed bits, in causal order.  Step, tokens and learning rate are prescribed by the config, and
the tokens' digest covers the data only: ledgers that share nothing else cannot be compared."""

_BLOCK_RECORDS = 1 << 16
_WORD_OF = {name: word for word, name in enumerate(QUANTITIES)}


@dataclass(frozen=True)
class RecordDifference:
    """The first step at which two histories differ.

    fields: the fields of the record that differ there, in causal order.
    a, b:   the two records.
    weights_before_equal: whether both recorded the weights after the previous step, and these were equal.
    """

    step: int
    fields: tuple[str, ...]
    a: LedgerRecord
    b: LedgerRecord
    weights_before_equal: bool

    @property
    def quantity(self) -> str:
        """The quantity that differs first: data, loss, gradients, grad_norm, optimizer or weights."""
        return self.quantities[0]

    @property
    def quantities(self) -> tuple[str, ...]:
        """All quantities that differ at this step, in causal order."""
        belongs = dict(CAUSAL_ORDER)
        return tuple(dict.fromkeys(belongs[name] for name in self.fields))


def common_steps(a: LedgerReader, b: LedgerReader) -> range:
    """The steps that both ledgers hold; may be empty."""
    start, stop = max(a.first_step, b.first_step), min(a.last_step, b.last_step) + 1
    return range(start, max(start, stop))


@dataclass(frozen=True)
class Extent:
    """What can be compared between two ledgers, or between one and an execution that records everything.

    n_steps:    finished steps of which both hold at least one of RESULT_FIELDS; the initial state does not count.
    quantities: that both hold of finished steps, in causal order: some of data, loss, gradients, grad_norm,
                optimizer, weights.  `data` alone does not compare results.
    """

    n_steps: int
    quantities: tuple[str, ...]


def common_extent(a: LedgerReader, b: LedgerReader | None, steps: range) -> Extent:
    """The extent of `steps`, which both ledgers hold; b = None stands for an execution that records everything."""
    results = sum(1 << _WORD_OF[name] for name in RESULT_FIELDS)
    n_steps, held = 0, 0
    for low in range(max(steps.start, 1), steps.stop, _BLOCK_RECORDS):
        high = min(low + _BLOCK_RECORDS, steps.stop)
        present = a.words[low - a.first_step : high - a.first_step, PRESENT_WORD]
        if b is not None:
            present = present & b.words[low - b.first_step : high - b.first_step, PRESENT_WORD]
        n_steps += int(np.count_nonzero(present & np.uint64(results)))
        held |= int(np.bitwise_or.reduce(present))
    names = ("tokens_digest", *RESULT_FIELDS)
    belongs = dict(CAUSAL_ORDER)
    return Extent(n_steps, tuple(belongs[name] for name in names if held >> _WORD_OF[name] & 1))


def differing_fields(a: LedgerRecord, b: LedgerRecord) -> tuple[str, ...]:
    """The fields that both records hold with different bits, in causal order."""
    words_a, words_b = (np.frombuffer(record.body(), "<u8").reshape(1, BODY_WORDS) for record in (a, b))
    return _names(int(_differing_bits(words_a, words_b)[0]))


def first_difference(a: LedgerReader, b: LedgerReader, steps: range | None = None) -> RecordDifference | None:
    """The first of `steps` (default: all that both hold) whose records differ; None if all are equal.

    Vectorised over the memory maps: a million steps take a fraction of a second.
    """
    steps = common_steps(a, b) if steps is None else steps
    for low in range(steps.start, steps.stop, _BLOCK_RECORDS):
        high = min(low + _BLOCK_RECORDS, steps.stop)
        words_a = a.words[low - a.first_step : high - a.first_step]
        words_b = b.words[low - b.first_step : high - b.first_step]
        bits = _differing_bits(words_a, words_b)
        if bits.any():
            index = int((bits != 0).argmax())
            return _difference_at(a, b, low + index, _names(int(bits[index])))
    return None


def equal_records(a: LedgerReader, b: LedgerReader) -> int:
    """The number of leading records that are equal in every byte, chains included; 0 if the first steps differ."""
    if (a.first_step, a.header.before) != (b.first_step, b.header.before):
        return 0
    n_records = min(a.n_records, b.n_records)
    for low in range(0, n_records, _BLOCK_RECORDS):
        high = min(low + _BLOCK_RECORDS, n_records)
        unequal = (a.words[low:high] != b.words[low:high]).any(axis=1)
        if unequal.any():
            return low + int(unequal.argmax())
    return n_records


def differing_steps(a: LedgerReader, b: LedgerReader, steps: range) -> tuple[int, int | None]:
    """(number of `steps` whose records differ, the last of them); (0, None) if all are equal."""
    count, last = 0, None
    for low in range(steps.start, steps.stop, _BLOCK_RECORDS):
        high = min(low + _BLOCK_RECORDS, steps.stop)
        words_a = a.words[low - a.first_step : high - a.first_step]
        words_b = b.words[low - b.first_step : high - b.first_step]
        (unequal,) = np.nonzero(_differing_bits(words_a, words_b))
        count += len(unequal)
        last = low + int(unequal[-1]) if len(unequal) else last
    return count, last


def _difference_at(a: LedgerReader, b: LedgerReader, step: int, fields: tuple[str, ...]) -> RecordDifference:
    """The difference at `step`, before which nothing differs."""
    before_equal = False
    if step - 1 in a.steps and step - 1 in b.steps:
        weights_a, weights_b = a.record(step - 1).weights_digest, b.record(step - 1).weights_digest
        before_equal = weights_a is not None and weights_a == weights_b
    return RecordDifference(step, fields, a.record(step), b.record(step), before_equal)


def _differing_bits(words_a: NDArray[np.uint64], words_b: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A mask per pair of records of the quantities that both hold with different bits.

    words_a, words_b: [n, 10] or [n, 14], uint64.  Returns: [n], uint64, bit i for quantity i.
    """
    unequal = words_a[:, :BODY_WORDS] != words_b[:, :BODY_WORDS]
    bits = np.zeros(len(unequal), dtype=np.uint64)
    if not unequal.any():
        return bits
    for word in range(PRESENT_WORD):
        bits |= unequal[:, word].astype(np.uint64) << np.uint64(word)
    return bits & words_a[:, PRESENT_WORD] & words_b[:, PRESENT_WORD]


def _names(bits: int) -> tuple[str, ...]:
    """The fields of a mask, in causal order."""
    return tuple(name for name, _ in CAUSAL_ORDER if bits >> _WORD_OF[name] & 1)


class Audit:
    """Compares recomputed steps with an earlier ledger: a tail that was cut off, or that of a reference run.

    proven_steps: steps that were compared and equal so far, without record 0.
    Both start from the same state: a tail begins where its ledger was cut.
    """

    def __init__(self, earlier: LedgerReader) -> None:
        self.earlier = earlier
        self.proven_steps = 0
        self._equal_before = earlier.first_step - 1

    def check(self, record: LedgerRecord) -> RecordDifference | None:
        """Compare a new record with the earlier one of its step; `a` is the earlier, `b` the new one.

        Returns None if they are equal, or if the earlier ledger does not hold the step.
        """
        if record.step not in self.earlier.steps:
            return None
        earlier = self.earlier.record(record.step)
        fields = differing_fields(earlier, record)
        if fields:
            return RecordDifference(
                record.step, fields, earlier, record, self._equal_before == record.step - 1
            )
        self._equal_before = record.step if record.weights_digest is not None else -1
        self.proven_steps += record.step > 0
        return None

    @property
    def last_step(self) -> int:
        """The last step that can be proven."""
        return self.earlier.last_step
