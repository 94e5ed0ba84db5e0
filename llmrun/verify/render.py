"""The screen of `llmrun verify`: lines with labels, the verdict last.  Other reports use the same lines."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from llmrun.storage.ledger.distance import Distance
from llmrun.text import counted, cut, listed
from llmrun.verify.diagnosis import describe_element
from llmrun.verify.fingerprints import FingerprintComparison
from llmrun.verify.report import Finding, Outcome, Verdict
from llmrun.verify.tensor_distance import TensorDistance

LABEL_WIDTH = 13

Tone = Literal["good", "bad", "neutral"]
TONES: dict[Outcome, Tone] = {
    "equal": "good",
    "different": "bad",
    "damaged": "bad",
    "nothing_compared": "neutral",
}

_TENSORS_MAX = 8
_CHANGES_MAX = 10
_CHECKPOINTS_MAX = 8


@dataclass(frozen=True)
class ReportLine:
    """One line of a report.

    label:   stands before the text in a column of 13; None for a line without that column.
    wraps:   prose, which may be wrapped at the width of a terminal; a row of a table may not.
    tone:    of the line with the verdict only; decides its colour.
    """

    text: str
    label: str | None = None
    wraps: bool = False
    tone: Tone | None = None

    def __str__(self) -> str:
        return self.text if self.label is None else f"{self.label:<{LABEL_WIDTH}}{self.text}".rstrip()


def labelled(label: str, texts: Iterable[str], *, wraps: bool = False) -> list[ReportLine]:
    """One line for each text, the label before the first."""
    return [ReportLine(text, "" if index else label, wraps) for index, text in enumerate(texts)]


def prose(label: str, texts: Iterable[str]) -> list[ReportLine]:
    """One line for each text, which may be wrapped, each with the label."""
    return [ReportLine(text, label, wraps=True) for text in texts]


def verdict_line(text: str, tone: Tone) -> ReportLine:
    """The last line of a report."""
    return ReportLine(text, wraps=True, tone=tone)


def lines_of(verdict: Verdict) -> list[ReportLine]:
    """The screen of `llmrun verify`."""
    return [
        *labelled("A", [verdict.a]),
        *labelled("B", [verdict.b]),
        *labelled("fingerprint", _fingerprints(verdict.fingerprints)),
        *labelled("compared", [_compared(verdict)]),
        *labelled("checkpoints", _checkpoints(verdict)),
        *labelled("chain", [verdict.chain] if verdict.chain else []),
        *closing_lines(verdict),
        verdict_line(_verdict_text(verdict), TONES[verdict.outcome]),
    ]


def closing_lines(verdict: Verdict) -> list[ReportLine]:
    """Damage, notes and the difference: all that stands between the facts and the verdict."""
    finding = verdict.finding
    # The verdict states the first damage itself.
    damage = verdict.damage[1:] if verdict.outcome == "damaged" else verdict.damage
    return [
        *prose("damage", damage),
        *prose("note", verdict.notes),
        *(_difference(verdict, finding) if finding else []),
    ]


def change_lines(found: FingerprintComparison) -> list[str]:
    """The fields in which two fingerprints differ."""
    return cut([str(change) for change in found.changes], _CHANGES_MAX)


def fingerprint_text(found: FingerprintComparison) -> str:
    """The fingerprint of A; of several the first and the number of later ones."""
    return listed([span.digest for span in found.a], 1, "later")


def _fingerprints(found: FingerprintComparison) -> list[str]:
    if found.equal:
        return [f"{fingerprint_text(found)}, the same in both"]
    if found.equal is None:
        unknown = " and ".join(label for label, spans in (("A", found.a), ("B", found.b)) if not spans)
        return [f"unknown for {unknown}"]
    return [f"differs in {', '.join(found.parts) or 'the steps it applies to'}", *change_lines(found)]


def _compared(verdict: Verdict) -> str:
    steps = f"{counted(verdict.steps_compared, 'step')}, up to step {verdict.last_step:,}"
    if verdict.complete or verdict.ends is None:
        return f"{steps}, all of both" if verdict.complete else steps
    return f"{steps}; A ends at step {verdict.ends[0]:,}, B at step {verdict.ends[1]:,}"


def _checkpoints(verdict: Verdict) -> list[str]:
    if not verdict.checkpoints:
        return []
    known = [str(step) for step in verdict.checkpoints]
    if len(known) > _CHECKPOINTS_MAX:
        known = [*known[: _CHECKPOINTS_MAX - 2], "…", known[-1]]
    word = "step" if len(verdict.checkpoints) == 1 else "steps"
    tensors = counted(verdict.tensors_compared, "tensor")
    return [f"{word} {', '.join(known)}: {tensors} and all random states equal, every byte read"]


def _difference(verdict: Verdict, finding: Finding) -> list[ReportLine]:
    """What differs, by how much, in which tensors, and what it means."""
    others = [name for name in finding.quantities if name != finding.quantity]
    shown_as_tensors = _is_one_table(verdict, finding)
    return [
        *labelled("also differ", [f"{', '.join(others)} at step {finding.step}"] if others else []),
        *labelled("steps", _steps(verdict)),
        *(line for name, rows in verdict.distances.items() for line in labelled(name, _table(rows))),
        *labelled("tensors", _tensors(verdict, finding)),
        *labelled("distances", [] if shown_as_tensors else _distances(verdict.tensor_distances)),
        *prose("diagnosis", [finding.diagnosis] if finding.kind == "difference" else []),
    ]


def _steps(verdict: Verdict) -> list[str]:
    """How many records differ; nothing if all from the first one on do."""
    if verdict.equal_again_from is None or verdict.finding is None:
        return []
    count = verdict.differing_steps
    return [f"{count:,} differ{'s' if count == 1 else ''}, none from step {verdict.equal_again_from:,} on"]


def _distances(rows: Sequence[TensorDistance], heading: str = "") -> list[str]:
    """A table of distances in the next checkpoints of both.  heading: of the column of names."""
    if not rows:
        return []
    heading = heading or f"after step {rows[0].step:,}"
    width = max(len(heading), *(len(row.tensor) for row in rows))
    return [
        f"{heading:<{width}}  {'elements':>21}  {'max |a - b|':>11}  {'relative':>9}  {'ulps':>12}",
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
    """A table of the distance of two values, step by step."""
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
    """The names of differing tensors, with distances or single elements if they are known."""
    if not finding.tensors:
        return []
    of = f" of {finding.tensors_quantity}" if finding.tensors_quantity else ""
    differ = "differs" if len(finding.tensors) == 1 else "differ"
    changes = {change.tensor: f"  {describe_element(change)}" for change in finding.elements}
    shown = cut([f"{name}{changes.get(name, '')}" for name in finding.tensors], _TENSORS_MAX)
    if _is_one_table(verdict, finding):
        shown = [*_distances(verdict.tensor_distances, "tensor"), *shown[_TENSORS_MAX:]]
    return [f"{len(finding.tensors):,}{of} {differ} after step {finding.tensors_step}:", *shown]


def _verdict_text(verdict: Verdict) -> str:
    finding = verdict.finding
    if verdict.outcome == "nothing_compared":
        held = "nothing but the data" if verdict.quantities_compared else "nothing"
        return f"nothing was compared: both record {held} of the steps up to {verdict.last_step:,}"
    if finding is None:
        quantities = ", ".join(name for name in verdict.quantities_compared if name != "data")
        if "weights" not in verdict.quantities_compared:
            return (
                f"equal in {quantities} at every step up to {verdict.last_step:,}; no weights were compared"
            )
        return f"equal: the same bits at every step up to {verdict.last_step:,}"
    if finding.kind != "difference":
        return f"{verdict.outcome}: {finding.diagnosis}"
    when = "before the first step" if finding.step == 0 else f"from step {finding.step:,} on"
    where = f" of {finding.module}" if finding.module else ""
    return f"different: {when}, first in {finding.quantity}{where}"
