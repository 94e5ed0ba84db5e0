"""A verdict as text: what was compared, what was found, and the most important line last."""

from collections.abc import Iterable

from llmrun.ledger.distance import Distance
from llmrun.verify.fingerprints import Fingerprints
from llmrun.verify.verdict import Finding, Verdict

_LABEL_WIDTH = 13
_TENSORS_MAX = 8
_CHANGES_MAX = 10
_CHECKPOINTS_MAX = 8


def lines_of(verdict: Verdict) -> list[str]:
    """The screen of `llmrun verify A B`."""
    finding = verdict.finding
    return [
        *_row("A", [verdict.a]),
        *_row("B", [verdict.b]),
        *_row("fingerprint", _fingerprints(verdict.fingerprints)),
        *_row("compared", [_compared(verdict)]),
        *_row("checkpoints", _checkpoints(verdict)),
        *_row("chain", [verdict.chain] if verdict.chain else []),
        *_row("damage", [said for said in verdict.damage if not finding or said != finding.diagnosis]),
        *_row("note", verdict.notes),
        *(_difference(verdict, finding) if finding else []),
        _last_line(verdict),
    ]


def _row(label: str, texts: Iterable[str]) -> list[str]:
    """Lines under one label; none for no text."""
    return [
        f"{label if index == 0 else '':<{_LABEL_WIDTH}}{text}".rstrip() for index, text in enumerate(texts)
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
        *_row("also differ", [f"{', '.join(others)} at step {finding.step}"] if others else []),
        *(line for name, rows in verdict.distances.items() for line in _row(name, _table(rows))),
        *_row("tensors", _tensors(finding)),
        *_row("diagnosis", [finding.diagnosis] if finding.quantity else []),
    ]


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


def _tensors(finding: Finding) -> list[str]:
    if not finding.tensors:
        return []
    shown = list(finding.tensors[:_TENSORS_MAX])
    more_count = len(finding.tensors) - len(shown)
    return [
        f"{len(finding.tensors):,} differ{'s' if len(finding.tensors) == 1 else ''} after step {finding.tensors_step}:",
        *shown,
        *([f"… and {more_count:,} more"] if more_count else []),
    ]


def _last_line(verdict: Verdict) -> str:
    finding = verdict.finding
    if finding is None:
        return f"equal: the same bits at every step up to {verdict.last_step:,}"
    if finding.quantity is None:
        return f"{'damaged' if verdict.damage else 'different'}: {finding.diagnosis}"
    if finding.step is None:
        return f"different: {finding.diagnosis}"
    when = "before the first step" if finding.step == 0 else f"from step {finding.step:,} on"
    return f"different: {when}, first in {finding.quantity}"
