"""A diagram of one global batch: optimizer step, accumulation steps, ranks."""

from typing import NamedTuple

from llmrun.core.batch import Batch
from llmrun.core.lanes import cost_of, lanes_of_rank
from llmrun.core.reduce.tree import tree_height
from llmrun.plan.degrees import micro_batches_per_rank
from llmrun.plan.render.language import Translate, english, padded, width

MOST_RANKS_DRAWN = 4


def equation(batch: Batch) -> str:
    """GB_tok = D · A · μ_tok with numbers; GB_tok = M · μ_tok if D does not divide M."""
    if batch.A is not None:
        return f"GB_tok = D · A · μ_tok      {batch.gb_tok:,} = {batch.D:,} · {batch.A:,} · {batch.mu_tok:,}"
    return f"GB_tok = M · μ_tok      {batch.gb_tok:,} = {batch.M:,} · {batch.mu_tok:,}"


class DiagramRow(NamedTuple):
    """One line of the diagram: its text, its tokens if it counts any, and their symbol."""

    text: str
    tokens: int | None = None
    symbol: str = ""


def batch_diagram(batch: Batch, translate: Translate = english) -> list[str]:
    """The hierarchy of one optimizer step in lines; of many ranks and steps the first and last are drawn."""
    lanes = cost_of(batch.V, batch.D)
    fewest, most = micro_batches_per_rank(batch, lanes)
    rows = [DiagramRow(translate("optimizer step, in tokens"), batch.gb_tok, "GB_tok")]
    first = (
        translate("accumulation step 1 of A = {most:,}", most=most)
        if fewest == most
        else translate("accumulation step 1 of {fewest:,} to {most:,}, by rank", fewest=fewest, most=most)
    )
    rows.append(DiagramRow(f"├─ {first}", batch.D * batch.mu_tok, "D · μ_tok"))
    rows += _ranks(batch, translate)
    if most > 2:
        rows.append(DiagramRow(f"├─ ⋮  {translate('{n:,} more', n=most - 2)}"))
    if most > 1:
        working = sum(_micro_batches(batch, rank) == most for rank in range(batch.D))
        whose = (
            ""
            if working == batch.D
            else translate(": {working:,} of {D:,} ranks", working=working, D=batch.D)
        )
        last = translate("accumulation step {most:,}", most=most)
        rows.append(DiagramRow(f"├─ {last}{whose}", working * batch.mu_tok))
    rows.append(DiagramRow(f"└─ {_tree(batch.V, translate)}"))
    return _aligned(rows)


def _tree(V: int, translate: Translate) -> str:
    if V == 1:
        return translate("V = 1 lane: no sum across lanes")
    return translate(
        "V = {V:,} lanes, added in one tree of height {height}: the same bits for every D",
        V=V,
        height=tree_height(V),
    )


def _ranks(batch: Batch, translate: Translate) -> list[DiagramRow]:
    """The ranks of the first accumulation step."""
    last = batch.D - 1
    drawn = range(batch.D) if batch.D <= MOST_RANKS_DRAWN else range(2)
    rows = [_rank(batch, rank, "└─" if rank == last else "├─", translate) for rank in drawn]
    if batch.D > MOST_RANKS_DRAWN:
        rows += [
            DiagramRow(f"│  ├─ ⋮  {translate('{n:,} more', n=batch.D - 3)}"),
            _rank(batch, last, "└─", translate),
        ]
    return rows


def _rank(batch: Batch, rank: int, branch: str, translate: Translate) -> DiagramRow:
    lanes = lanes_of_rank(batch.V, batch.D, rank)
    hosted = (
        translate("lane {n:,}", n=lanes.start)
        if len(lanes) == 1
        else translate("lanes {first:,}-{last:,}", first=lanes.start, last=lanes.stop - 1)
    )
    n, L = batch.sequences, batch.L_ctx
    size = translate("1 sequence × {L:,}", L=L) if n == 1 else translate("{n:,} sequences × {L:,}", n=n, L=L)
    text = translate("rank {rank:,} ({hosted}): {size}", rank=rank, hosted=hosted, size=size)
    return DiagramRow(f"│  {branch} {text}", batch.mu_tok, "" if rank else "μ_tok")


def _micro_batches(batch: Batch, rank: int) -> int:
    return len(lanes_of_rank(batch.V, batch.D, rank)) * batch.micro_batches_per_lane


def _aligned(rows: list[DiagramRow]) -> list[str]:
    """The rows as lines with tokens in one column."""
    counted = [row for row in rows if row.tokens is not None]
    text_width = max(width(row.text) for row in counted)
    number_width = max(len(f"{row.tokens:,}") for row in counted)
    lines = []
    for row in rows:
        if row.tokens is None:
            lines.append(row.text)
            continue
        symbol = f" = {row.symbol}" if row.symbol else ""
        lines.append(f"{padded(row.text, text_width)}  {row.tokens:>{number_width},}{symbol}")
    return lines
