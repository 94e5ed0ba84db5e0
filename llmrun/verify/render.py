"""A comparison as text: what was compared, what was found, and the most important line last."""

from collections.abc import Iterable, Sequence

from llmrun.storage.ledger.distance import Distance
from llmrun.verify.diagnosis import said_of_element
from llmrun.verify.fingerprints import Fingerprints
from llmrun.verify.report import Finding, Verdict
from llmrun.verify.tensor_diff import TensorDistance

LABEL_WIDTH = 13


def labelled(label: str, texts: Iterable[str]) -> list[str]:
    """One line for each text, the label before the first; none for no text."""
    return [f"{'' if index else label:<{LABEL_WIDTH}}{text}".rstrip() for index, text in enumerate(texts)]


_TENSORS_MAX = 8
_CHANGES_MAX = 10
_CHECKPOINTS_MAX = 8


def lines_of(verdict: Verdict) -> list[str]:
    """The screen of `llmrun verify A B`."""
    finding = verdict.finding
    return [
        *labelled("A", [verdict.a]),
        *labelled("B", [verdict.b]),
        *labelled("fingerprint", _fingerprints(verdict.fingerprints)),
        *labelled("compared", [_compared(verdict)]),
        *labelled("checkpoints", _checkpoints(verdict)),
        *labelled("chain", [verdict.chain] if verdict.chain else []),
        *labelled("damage", [said for said in verdict.damage if not finding or said != finding.diagnosis]),
        *labelled("note", verdict.notes),
        *(_difference(verdict, finding) if finding else []),
        _last_line(verdict),
    ]


def _fingerprints(found: Fingerprints) -> list[str]:
    if found.equal:
        more = f" and {len(found.a) - 1} later" if len(found.a) > 1 else ""
        return [f"{found.a[0].digest}{more}, the same in both"]
    if found.equal is None:
        unknown = " and ".join(label for label, eras in (("A", found.a), ("B", found.b)) if not eras)
        return [f"not known of {unknown}"]
    lines = [str(change) for change in found.changes[:_CHANGES_MAX]]
    more_count = len(found.changes) - len(lines)
    if more_count > 0:
        lines.append(f"… and {more_count} more")
    return [f"differs in {', '.join(found.parts) or 'the steps it applies to'}", *lines]


def _compared(verdict: Verdict) -> str:
    count = verdict.steps_compared
    steps = f"{count:,} step{'' if count == 1 else 's'}, up to step {verdict.last_step:,}"
    if verdict.complete or verdict.ends is None:
        return f"{steps}, all of both" if verdict.complete else steps
    return f"{steps}; A ends at step {verdict.ends[0]:,}, B at step {verdict.ends[1]:,}"


def _checkpoints(verdict: Verdict) -> list[str]:
    if not verdict.checkpoints:
        return []
    known = [str(step) for step in verdict.checkpoints]
    if len(known) > _CHECKPOINTS_MAX:
        known = [*known[: _CHECKPOINTS_MAX - 2], "…", known[-1]]
    steps = ", ".join(known)
    word = "step" if len(verdict.checkpoints) == 1 else "steps"
    return [
        f"{word} {steps}: {verdict.tensors_compared:,} tensors and all random states equal, every byte read"
    ]


def _difference(verdict: Verdict, finding: Finding) -> list[str]:
    """What differs, how far, in which tensors, and what it means."""
    others = [name for name in finding.quantities if name != finding.quantity]
    return [
        *labelled("also differ", [f"{', '.join(others)} at step {finding.step}"] if others else []),
        *labelled("steps", _steps(verdict)),
        *(line for name, rows in verdict.distances.items() for line in labelled(name, _table(rows))),
        *labelled("tensors", _tensors(verdict, finding)),
        *labelled("how far", _far(verdict.tensor_distances) if not _is_one_table(verdict, finding) else []),
        *labelled("diagnosis", [finding.diagnosis] if finding.quantity else []),
    ]


def _steps(verdict: Verdict) -> list[str]:
    """How many records differ; nothing where all from the first on do."""
    if verdict.equal_again_from is None or verdict.finding is None:
        return []
    count = verdict.differing_steps
    return [f"{count:,} differ{'s' if count == 1 else ''}, none from step {verdict.equal_again_from:,} on"]


def _far(rows: Sequence[TensorDistance], label: str = "") -> list[str]:
    """How far apart tensors are in the next checkpoints of both.  label: stands above the names."""
    if not rows:
        return []
    label = label or f"after step {rows[0].step:,}"
    width = max(len(label), *(len(row.tensor) for row in rows))
    return [
        f"{label:<{width}}  {'elements':>21}  {'max |a - b|':>11}  {'relative':>9}  {'ulps':>12}",
        *(
            f"{row.tensor:<{width}}  {f'{row.differing:,} of {row.elements:,}':>21}  {row.absolute:>11.2e}  "
            f"{row.relative:>9.2e}  {_ulps(row.ulps):>12}"
            for row in rows
        ),
    ]


def _is_one_table(verdict: Verdict, finding: Finding) -> bool:
    """Whether the distances are those of the tensors that are listed anyway."""
    rows = verdict.tensor_distances
    return (
        bool(rows)
        and rows[0].step == finding.tensors_step
        and [row.tensor for row in rows] == list(finding.tensors[:_TENSORS_MAX])
    )


def _table(rows: list[Distance]) -> list[str]:
    """How far two values lie apart, and how that grows."""
    head = f"{'step':>9}  {'A':>22}  {'B':>22}  {'relative':>9}  {'ulps':>12}"
    return [
        head,
        *(
            f"{row.step:>9,}  {row.a:>22.17g}  {row.b:>22.17g}  {row.relative:>9.2e}  {_ulps(row.ulps):>12}"
            for row in rows
        ),
    ]


def _ulps(count: int) -> str:
    return f"{count:,}" if count < 10**9 else f"{count:.1e}"


def _tensors(verdict: Verdict, finding: Finding) -> list[str]:
    """The names, with distances or single elements where they are known."""
    if not finding.tensors:
        return []
    names = finding.tensors[:_TENSORS_MAX]
    more_count = len(finding.tensors) - len(names)
    of = f" of {finding.tensors_quantity}" if finding.tensors_quantity else ""
    differ = "differs" if len(finding.tensors) == 1 else "differ"
    changes = {change.tensor: f"  {said_of_element(change)}" for change in finding.elements}
    if _is_one_table(verdict, finding):
        shown = _far(verdict.tensor_distances, "tensor")
    else:
        shown = [f"{name}{changes.get(name, '')}" for name in names]
    return [
        f"{len(finding.tensors):,}{of} {differ} after step {finding.tensors_step}:",
        *shown,
        *([f"… and {more_count:,} more"] if more_count else []),
    ]


def _last_line(verdict: Verdict) -> str:
    finding = verdict.finding
    if verdict.equal is None:
        held = "nothing but the data" if verdict.quantities_compared else "nothing"
        return f"nothing was compared: both record {held} of the steps up to {verdict.last_step:,}"
    if finding is None and "weights" not in verdict.quantities_compared:
        quantities = ", ".join(name for name in verdict.quantities_compared if name != "data")
        return f"equal in {quantities} at every step up to {verdict.last_step:,}; no weights were compared"
    if finding is None:
        return f"equal: the same bits at every step up to {verdict.last_step:,}"
    if finding.quantity is None:
        return f"{'damaged' if verdict.damage else 'different'}: {finding.diagnosis}"
    if finding.step is None:
        return f"different: {finding.diagnosis}"
    when = "before the first step" if finding.step == 0 else f"from step {finding.step:,} on"
    where = f" of {finding.module}" if finding.module else ""
    return f"different: {when}, first in {finding.quantity}{where}"
