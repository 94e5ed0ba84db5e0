"""Tables of the explanation: what each D costs, goodput over intervals."""

from collections.abc import Sequence

from llmrun.plan.amounts import UNKNOWN, show_bytes, show_hours, show_percent
from llmrun.plan.degrees import Degree, degree_table
from llmrun.plan.interruptions import bytes_per_day
from llmrun.plan.language import Say, width
from llmrun.plan.plan import Plan


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Right-aligned columns, two spaces apart; the last column is left-aligned text."""
    cells = [heading, *rows]
    widths = [max(width(line[column]) for line in cells) for column in range(len(heading) - 1)]
    return [
        "  ".join(
            [
                *(" " * (columns - width(cell)) + cell for cell, columns in zip(line, widths, strict=False)),
                line[-1],
            ]
        ).rstrip()
        for line in cells
    ]


def degree_lines(plan: Plan, say: Say) -> list[str]:
    """One row for each D, the plan's own marked, and what a D takes that does not divide M."""
    heading = [
        "D",
        "A",
        say("waiting"),
        say("sums sent"),
        say("gradient buffers"),
        say("of each rank"),
        "",
    ]
    degrees = degree_table(plan.batch)
    lines = table(heading, [_degree_cells(row, plan, say) for row in degrees])
    if any(row.A is None for row in degrees):
        lines.append(
            say(
                "a D that does not divide M = {M:,} takes `--set batch.uneven=allow`, the same bits",
                M=plan.batch.M,
            )
        )
    return lines


def _degree_cells(row: Degree, plan: Plan, say: Say) -> list[str]:
    """One D as cells."""
    buffer_bytes = 4 * plan.parameters.N_params_total
    remark = "" if row.cheap else say("uneven")
    if row.D == plan.batch.D:
        remark = " ".join(filter(None, ["<--", remark]))
    return [
        f"{row.D:,}",
        f"{row.A:,}" if row.A is not None and row.cheap else say("at most {n:,}", n=row.A_largest),
        f"{row.idle_share:.1%}",
        UNKNOWN if row.sums_sent is None else f"{row.sums_sent:.2f}",
        UNKNOWN if row.buffers is None else f"{row.buffers}",
        UNKNOWN if row.buffers is None else show_bytes(row.buffers * buffer_bytes),
        remark,
    ]


def goodput_lines(plan: Plan, say: Say) -> list[str]:
    """Goodput over intervals: recommended, configured, and around."""
    saving = plan.saving
    named = {saving.young: "Young", saving.daly: "Daly"}
    if saving.configured is not None:
        named[saving.configured] = say("as configured")
    shown = sorted({*saving.rows, *named}, key=lambda row: row.interval_s)
    rows = [
        [
            show_hours(row.interval_s / 3600, say),
            show_percent(row.goodput),
            show_bytes(round(bytes_per_day(plan.checkpoint.total, row.interval_s))),
            named.get(row, ""),
        ]
        for row in shown
    ]
    return table([say("interval"), "goodput", say("written a day"), ""], rows)
