"""Compares the ledgers of two subjects: chains first, then record by record."""

from dataclasses import dataclass

from llmrun.errors import NothingComparedError
from llmrun.ledger.compare import (
    Difference,
    Extent,
    common_extent,
    common_steps,
    differing_steps,
    equal_records,
    first_difference,
)
from llmrun.ledger.distance import Distance, growth
from llmrun.ledger.reader import LedgerReader
from llmrun.ledger.record import QUANTITIES


@dataclass(frozen=True)
class LedgersCompared:
    """What a comparison of two ledgers found.

    steps:        the steps whose records were compared: both hold them, and they are sound.
    difference:   the first difference; None where there is none.
    n_different:  steps whose records differ.
    equal_again:  the step from which on no record differs any more; None where the last one does, or none.
    broken_step:  the first step whose record does not hold in one of them; None where all hold.
    chain:        the chain after the last step, where it is the same in both; None otherwise.
    extent:       how many of these steps tell bits in both, and which quantities do.
    complete:     both end at the same step, and neither is torn or damaged.
    """

    steps: range
    difference: Difference | None
    broken_step: int | None
    chain: str | None
    complete: bool
    damage: tuple[str, ...]
    notes: tuple[str, ...]
    extent: Extent
    n_different: int = 0
    equal_again: int | None = None


def compare_ledgers(a: LedgerReader, b: LedgerReader) -> LedgersCompared:
    """Compare two ledgers over the steps that both hold.

    Raises NothingComparedError if they have no step in common.
    """
    both = common_steps(a, b)
    if not both:
        raise NothingComparedError(f"nothing was compared: A holds {_held(a)}, B holds {_held(b)}")
    found = _first_broken(a, b)
    broken = {label: step for label, step in found.items() if step is not None}
    steps = range(both.start, min([both.stop, *broken.values()]))
    difference = first_difference(a, b, steps)
    chain = None
    if steps and difference is None and a.chain_at(steps[-1]) == b.chain_at(steps[-1]):
        chain = a.chain_at(steps[-1]).hex()
    return LedgersCompared(
        steps,
        difference,
        min(broken.values(), default=None),
        chain,
        a.steps == b.steps and a.ends_cleanly and b.ends_cleanly and not broken,
        tuple(
            f"record {step} of the ledger of {label} does not hold: it was damaged or edited"
            for label, step in broken.items()
        ),
        (*_notes("A", a), *_notes("B", b), *_unrecorded(a, b)),
        common_extent(a, b, steps),
        *_later(a, b, difference, steps),
    )


def _first_broken(a: LedgerReader, b: LedgerReader) -> dict[str, int | None]:
    """The first step of each whose record does not hold.  Links that A holds and B has too are computed once."""
    broken = a.verify_chain()
    sound = equal_records(a, b) if broken is None else min(equal_records(a, b), broken - a.first_step)
    return {"A": broken, "B": b.verify_chain(b.first_step + sound)}


def _later(
    a: LedgerReader, b: LedgerReader, difference: Difference | None, steps: range
) -> tuple[int, int | None]:
    """(steps that differ, the step from which on none does)."""
    if difference is None:
        return 0, None
    count, last = differing_steps(a, b, range(difference.step, steps.stop))
    return count, None if last is None or last == steps[-1] else last + 1


def distances_of(compared: LedgersCompared, a: LedgerReader, b: LedgerReader) -> dict[str, list[Distance]]:
    """How far loss and gradient norm lie apart from the first different step on, where they do."""
    if compared.difference is None:
        return {}
    first, last = compared.difference.step, compared.steps[-1]
    rows = {name: growth(a, b, name, first, last) for name in ("loss", "grad_norm")}
    return {name: row for name, row in rows.items() if any(distance.ulps for distance in row)}


def _held(ledger: LedgerReader) -> str:
    if not ledger.n_records:
        return "no step"
    return f"steps {ledger.first_step} to {ledger.last_step}"


def _notes(label: str, ledger: LedgerReader) -> list[str]:
    if ledger.torn_step is None:
        return []
    return [f"the ledger of {label} ends within the record of step {ledger.torn_step}, which is left out"]


def _unrecorded(a: LedgerReader, b: LedgerReader) -> list[str]:
    """Which quantities only one of the two records."""
    return [
        f"{label} does not record {', '.join(missing)}: not compared"
        for label, own, other in (("A", a, b), ("B", b, a))
        if (missing := [q for q in QUANTITIES if q in other.header.quantities - own.header.quantities])
    ]
