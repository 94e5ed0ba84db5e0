"""What Muon costs: parameters that it updates, FLOPs of its orthogonalisation, and how owners share them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from llmrun.core.model.parameters import block_shapes
from llmrun.core.model.shape import ModelShape
from llmrun.core.model.spec import ModelSpec
from llmrun.core.muon_flops import newton_schulz_flops
from llmrun.core.parameter_groups import OptimizerSpec, ParameterGroup
from llmrun.core.reduce.owners import owners_of


@dataclass(frozen=True)
class MuonWork:
    """Muon's part of an update.

    N_params:      parameters that it updates, each with one moment instead of two.
    matrices:      their number.
    FLOPs:         of all orthogonalisations of one update.
    busiest_FLOPs: of the rank that owns the most work.
    share:         N_params as a share of the elements of all matrices inside blocks.
    """

    N_params: int
    matrices: int
    FLOPs: int
    busiest_FLOPs: int
    share: float


def muon_work(
    model: ModelSpec, groups: Sequence[ParameterGroup], spec: OptimizerSpec, D: int
) -> MuonWork | None:
    """Muon's part of an update on D ranks; None if AdamW updates everything."""
    if spec.muon is None:
        return None
    parameters = model.parameters
    names = [name for group in groups if group.optimizer == "muon" for name in group.names]
    costs = {name: newton_schulz_flops(parameters[name], spec.muon.ns_steps) for name in names}
    owners = owners_of(costs, D)
    busiest = max(sum(costs[name] for name in names if owners[name] == rank) for rank in set(owners.values()))
    N_params = sum(prod(parameters[name]) for name in names)
    blocks = tuple(f"{block}." for block in model.blocks)
    in_blocks = sum(
        prod(size) for name, size in parameters.items() if len(size) == 2 and name.startswith(blocks)
    )
    return MuonWork(N_params, len(names), sum(costs.values()), busiest, N_params / max(1, in_blocks))


def parameters_of_muon(shape: ModelShape, share: float) -> int:
    """The parameters that Muon updates in a model of this shape, `share` as in `MuonWork`."""
    return round(share * _in_blocks(shape)) if share else 0


def _in_blocks(shape: ModelShape) -> int:
    """Elements of the matrices of all blocks."""
    return shape.n_layers * sum(prod(size) for size in block_shapes(shape).values() if len(size) == 2)


def largest_moments(N: int, N_muon: int, D: int, *, by_rows: bool) -> int:
    """Bytes of fp32 moments on the rank that has the most: 8 for a parameter of AdamW, 4 for one of Muon.

    by_rows: each parameter is cut into D parts; if not, the flat buffer is, in which AdamW's parameters come first.
    """
    own = -(-N // D)
    if by_rows:
        return 8 * own - 4 * (N_muon // D)
    by_adamw = min(N - N_muon, own)
    return 8 * by_adamw + 4 * (own - by_adamw)


def update_bytes(shape: ModelShape, N: int, N_muon: int, D: int) -> int:
    """Temporary bytes of Muon's update on one rank, bfloat16: directions, whole matrices, and either what is sent and
    received or one orthogonalisation.

    An orthogonalisation of m × n, m <= n, holds three of X's size and two of m × m.
    """
    if not N_muon:
        return 0
    sizes = [sorted(size) for size in block_shapes(shape).values() if len(size) == 2]
    own = min(N_muon, -(-N // D))
    owned = max(-(-N_muon // D), *(m * n for m, n in sizes))
    iteration = max(3 * m * n + 2 * m * m for m, n in sizes)
    exchanged = own + owned if D > 1 else 0
    return 2 * (own + owned + max(exchanged, iteration))
