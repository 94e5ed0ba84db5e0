"""What a campaign found, as Markdown that reads well on a terminal too."""

from chaos.fire import Tally

VICTIMS = {
    "rank": "one rank",
    "ranks": "all ranks",
    "launcher": "the launcher",
    "agent": "torchrun's agent",
}
MOMENTS = {
    "saving": "inside a save",
    "step": "inside a step",
    "clock": "by the clock",
    "loading": "while loading",
    "starting": "while preparing",
}


def table(rows: list[list[str]]) -> str:
    """Rows as a Markdown table with aligned columns; the first is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def kills_table(tally: Tally) -> str:
    """Kills by victim and moment."""
    moments = [moment for moment in MOMENTS if any(key[1] == moment for key in tally.kills)]
    rows = [["killed", *(MOMENTS[moment] for moment in moments), "all"]]
    for victim, name in VICTIMS.items():
        counts = [tally.kills[victim, moment] for moment in moments]
        if sum(counts):
            rows.append([name, *map(str, counts), str(sum(counts))])
    sums = [sum(tally.kills[victim, moment] for victim in VICTIMS) for moment in moments]
    return table([*rows, ["all", *map(str, sums), str(sum(sums))]])


def figures_table(tallies: dict[str, Tally], seconds: float) -> str:
    """One column for each way of starting ranks."""
    rows = {
        "runs, each equal to the straight one in every bit": lambda t: f"{t.runs:,}",
        "kills": lambda t: f"{t.kills.total():,}",
        "of them with a half-written save left behind": lambda t: f"{t.left_hidden:,}",
        "resumes from a checkpoint": lambda t: f"{t.resumes:,}",
        "kills at D = 1 · 2 · 3 · 4": lambda t: " · ".join(f"{t.D[D]:,}" for D in (1, 2, 3, 4)),
        "checkpoints committed": lambda t: f"{t.committed:,}",
        "final names verified after a kill": lambda t: f"{t.looked_at:,}",
        "unsound or of other bits among them": lambda t: f"{t.findings['unsound'] + t.findings['bits']:,}",
        "steps recomputed, all equal to their earlier record": lambda t: f"{t.recomputed:,}",
        "resumes that did not start from the newest committed one": lambda t: f"{t.findings['lost']:,}",
        "hidden directories left after the next start": lambda t: f"{t.findings['leftover']:,}",
        "kills that left an orphan": lambda t: f"{t.findings['orphans']:,}",
        "segments that ended in another way than they should": lambda t: f"{t.findings['ending']:,}",
        "longest life of a process after the kill": lambda t: f"{t.gone_s_max * 1000:.0f} ms",
    }
    head = ["", *tallies]
    body = [[name, *(figure(tally) for tally in tallies.values())] for name, figure in rows.items()]
    return table([head, *body]) + f"\n\n{seconds:,.0f} s in all."


def places_line(tally: Tally) -> str:
    """Before which operations the kills came that were drawn on logical time."""
    return ", ".join(f"{where} {count}" for where, count in tally.places.most_common())


def report(tallies: dict[str, Tally], seconds: float, command: str) -> str:
    """The whole of it.  The first finding ends a campaign: whoever reads to the end sees its one count."""
    parts = [f"`{command}`"]
    for name, tally in tallies.items():
        parts += [f"Ranks started {name}:", kills_table(tally)]
        if tally.places:
            parts.append(f"Kills on logical time came before: {places_line(tally)}.")
    return "\n\n".join([*parts, figures_table(tallies, seconds)])
