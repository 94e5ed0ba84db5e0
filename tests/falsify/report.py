"""The table of a campaign, as Markdown that reads well on a terminal too."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from falsify.attempt import Attempt, Ending

PAGE = Path(__file__).parents[2] / "docs" / "falsify.md"
MARKS = ("<!-- table -->\n", "<!-- end of table -->")
DETAIL_MAX = 110


@dataclass(frozen=True)
class Result:
    """How an attempt ended, what differed or was refused, and how long it took."""

    attempt: Attempt
    ending: Ending
    detail: str
    seconds: float

    @property
    def is_finding(self) -> bool:
        """Whether the ending is not one of those that were acceptable beforehand."""
        return self.ending not in (*self.attempt.allowed, Ending.NOT_TRIED)


def line(result: Result) -> str:
    """One result for the screen."""
    mark = "FOUND " if result.is_finding else ""
    return f"{mark}{result.attempt.name}: {result.ending}{_after(result.detail)} ({result.seconds:.0f} s)"


def _after(detail: str) -> str:
    return f"; {detail}" if detail else ""


def full_table(results: Sequence[Result], families: Mapping[str, Sequence[Attempt]], seconds: float) -> str:
    """One table for each family, and the count of endings."""
    parts = []
    for family, attempts in families.items():
        members = [result for result in results if result.attempt in attempts]
        if members:
            parts += [f"### {family[0].upper()}{family[1:]}", table(members)]
    outside = [r for r in results if not any(r.attempt in attempts for attempts in families.values())]
    if outside:
        parts += ["### Beside the catalogue", table(outside)]
    counts = Counter(result.ending for result in results)
    endings = ", ".join(f"{counts[ending]} {ending}" for ending in Ending if counts[ending])
    findings = sum(result.is_finding for result in results)
    return "\n\n".join(
        [*parts, f"{len(results)} attempts: {endings}. Findings: {findings}. {seconds:,.0f} s in all."]
    )


def table(results: Sequence[Result]) -> str:
    """Rows with aligned columns."""
    rows = [["attempt", "what", "may end", "ended", "what differed or was refused", "s"]]
    rows += [
        [
            result.attempt.name,
            _cell(result.attempt.what),
            " / ".join(result.attempt.allowed),
            f"**{result.ending}**" if result.is_finding else result.ending,
            _cell(result.detail),
            f"{result.seconds:.0f}",
        ]
        for result in results
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cell(text: str) -> str:
    """Text that fits into a cell of a table."""
    cut = text if len(text) <= DETAIL_MAX else f"{text[: DETAIL_MAX - 1]}…"
    return cut.replace("|", "\\|").replace("\n", " ")


def write_page(text: str) -> None:
    """Put the table between its marks in docs/falsify.md."""
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(MARKS[0])
    _, _, tail = rest.partition(MARKS[1])
    assert tail, f"{PAGE} has lost its marks"
    PAGE.write_text(f"{head}{MARKS[0]}\n{text}\n\n{MARKS[1]}{tail}", encoding="utf-8")
