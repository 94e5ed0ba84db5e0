"""One global batch as text: optimizer step, accumulation steps, ranks, with the user's numbers."""

from dataclasses import dataclass

from llmrun.config.batch import Batch
from llmrun.lanes import UnevenCost, cost_of, lanes_of_rank, tree_height

MOST_RANKS_DRAWN = 4


def equation(batch: Batch) -> str:
    """GB_tok = D · A · μ_tok in the user's numbers; through M where D does not divide M."""
    if batch.A is not None:
        return f"GB_tok = D · A · μ_tok      {batch.gb_tok:,} = {batch.D:,} · {batch.A:,} · {batch.mu_tok:,}"
    return f"GB_tok = M · μ_tok      {batch.gb_tok:,} = {batch.M:,} · {batch.mu_tok:,}"


def micro_batches_per_rank(batch: Batch, lanes: UnevenCost) -> tuple[int, int]:
    """The fewest and the most micro-batches that a rank computes in one step."""
    per_lane = batch.micro_batches_per_lane
    return min(lanes.lanes_per_rank) * per_lane, max(lanes.lanes_per_rank) * per_lane


@dataclass(frozen=True)
class Row:
    """One line of the diagram: what it is, its tokens where it has some, and the symbol for them."""

    text: str
    tokens: int | None = None
    symbol: str = ""


def batch_diagram(batch: Batch) -> list[str]:
    """The hierarchy of one optimizer step, one line each; many ranks and steps are drawn by first and last."""
    lanes = cost_of(batch.V, batch.D)
    fewest, most = micro_batches_per_rank(batch, lanes)
    named = f"of A = {most:,}" if fewest == most else f"of {fewest:,} to {most:,}, by rank"
    rows = [Row("optimizer step", batch.gb_tok, "GB_tok")]
    rows.append(Row(f"├─ accumulation step 1 {named}", batch.D * batch.mu_tok, "D · μ_tok"))
    rows += _ranks(batch)
    if most > 2:
        rows.append(Row(f"├─ ⋮  {most - 2:,} more"))
    if most > 1:
        working = sum(_micro_batches(batch, rank) == most for rank in range(batch.D))
        whose = "" if working == batch.D else f": {working:,} of {batch.D:,} ranks"
        rows.append(Row(f"├─ accumulation step {most:,}{whose}", working * batch.mu_tok))
    rows.append(Row(_tree(batch.V)))
    return _aligned(rows)


def _tree(V: int) -> str:
    """How lanes become one gradient, in words."""
    if V == 1:
        return "└─ V = 1 lane: nothing else to add"
    return f"└─ V = {V:,} lanes, added in one tree of height {tree_height(V)}: the same bits for every D"


def _ranks(batch: Batch) -> list[Row]:
    """The ranks of the first accumulation step."""
    last = batch.D - 1
    drawn = range(batch.D) if batch.D <= MOST_RANKS_DRAWN else range(2)
    rows = [_rank(batch, rank, "└─" if rank == last else "├─") for rank in drawn]
    if batch.D > MOST_RANKS_DRAWN:
        rows += [Row(f"│  ├─ ⋮  {batch.D - 3:,} more"), _rank(batch, last, "└─")]
    return rows


def _rank(batch: Batch, rank: int, branch: str) -> Row:
    """One rank's first micro-batch."""
    lanes = lanes_of_rank(batch.V, batch.D, rank)
    hosted = f"lane {lanes.start:,}" if len(lanes) == 1 else f"lanes {lanes.start:,}-{lanes.stop - 1:,}"
    size = f"{batch.sequences:,} sequence{'s' * (batch.sequences > 1)} × {batch.L_ctx:,}"
    return Row(f"│  {branch} rank {rank:,} ({hosted}): {size}", batch.mu_tok, "" if rank else "μ_tok")


def _micro_batches(batch: Batch, rank: int) -> int:
    """Micro-batches that a rank computes in one step."""
    return len(lanes_of_rank(batch.V, batch.D, rank)) * batch.micro_batches_per_lane


def _aligned(rows: list[Row]) -> list[str]:
    """The rows as lines, their tokens in one column."""
    counted = [row for row in rows if row.tokens is not None]
    text_width = max(len(row.text) for row in counted)
    number_width = max(len(f"{row.tokens:,}") for row in counted)
    lines = []
    for row in rows:
        if row.tokens is None:
            lines.append(row.text)
            continue
        symbol = f" = {row.symbol}" if row.symbol else ""
        lines.append(f"{row.text:<{text_width}}   {row.tokens:>{number_width},} tokens{symbol}")
    return lines
