"""Parameters that are updated alike: by which optimizer, with which weight decay and share of the learning rate (no torch).

Without `optimizer.groups`, weight decay holds for matrices and tables, not for norms and biases, and Muon takes the
matrices inside blocks; embeddings, output heads and everything else are AdamW's (Keller Jordan 2024,
https://kellerjordan.github.io/posts/muon/).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, Self

Shape = tuple[int, ...]
OptimizerName = Literal["adamw", "muon"]

MOMENTS: Mapping[OptimizerName, tuple[str, ...]] = {
    "adamw": ("exp_avg", "exp_avg_sq"),
    "muon": ("momentum_buffer",),
}
"""The state that each optimizer keeps of a parameter, as torch names it; float32, of the parameter's shape."""

MOMENT_SUFFIXES = tuple(f".{name}" for names in MOMENTS.values() for name in names)
"""What a checkpoint appends to a parameter's name."""


@dataclass(frozen=True)
class GroupSpec:
    """Settings of the parameters whose names match a pattern.

    match:        `*`, `?` and `[…]` as in a shell; `*` matches dots, too.
    optimizer:    None: the default.  weight_decay: None: the default.
    lr_scale:     factor of the learning rate.
    """

    match: str
    optimizer: OptimizerName | None = None
    weight_decay: float | None = None
    lr_scale: float = 1.0


@dataclass(frozen=True)
class MuonSpec:
    """Muon's settings, as of `torch.optim.Muon`.  adjust_lr_fn: `original` | `match_rms_adamw`."""

    lr: float
    momentum: float
    nesterov: bool
    ns_steps: int
    weight_decay: float
    adjust_lr_fn: str


@dataclass(frozen=True)
class OptimizerSpec:
    """The update rule.  implementation: AdamW's kernels, `fused` | `foreach`, which differ in bits.

    lr, betas, eps, weight_decay: AdamW's.  muon: None if AdamW updates every parameter.
    """

    name: str
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    grad_clip: float | None
    implementation: str
    muon: MuonSpec | None = None
    groups: tuple[GroupSpec, ...] = ()

    @classmethod
    def of(cls, numeric: Mapping[str, Any]) -> Self:
        """The spec that the numeric fields of a resolved config's section `optimizer` ask for."""
        fields = dict(numeric)
        muon = fields.pop("muon", None)
        groups = tuple(GroupSpec(**group) for group in fields.pop("groups", ()))
        fields["betas"] = tuple(fields["betas"])
        return cls(**fields, muon=None if muon is None else MuonSpec(**muon), groups=groups)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are updated alike, in the order of the model."""

    optimizer: OptimizerName
    weight_decay: float
    lr_scale: float
    names: tuple[str, ...]


def parameter_groups(
    parameters: Mapping[str, Shape],
    blocks: Sequence[str],
    spec: OptimizerSpec,
    frozen: Collection[str] = frozenset(),
) -> tuple[ParameterGroup, ...]:
    """All parameters by group: AdamW's first; in each optimizer those with default settings first, decayed before others.

    blocks: names of the model's blocks, as in `ModelSpec.blocks`.
    frozen: names of the parameters that training does not change: AdamW's without weight decay, whatever the groups say,
            so that a gradient of zero leaves them as they are.
    """
    found: dict[tuple[bool, int, bool], list[str]] = {}
    for name, shape in parameters.items():
        if name in frozen:
            found.setdefault((False, -1, True), []).append(name)
            continue
        index = group_index(name, spec.groups)
        by_muon = optimizer_of(name, shape, blocks, spec) == "muon"
        found.setdefault((by_muon, -1 if index is None else index, not is_decayed(shape)), []).append(name)
    groups = []
    for (by_muon, index, not_decayed), names in sorted(found.items()):
        settings = spec.groups[index] if index >= 0 else GroupSpec("*")
        decay = settings.weight_decay
        if decay is None:
            decay = 0.0 if not_decayed else _default_decay(spec, by_muon=by_muon)
        optimizer: OptimizerName = "muon" if by_muon else "adamw"
        groups.append(ParameterGroup(optimizer, decay, settings.lr_scale, tuple(names)))
    return tuple(groups)


def moments_of(groups: Sequence[ParameterGroup]) -> dict[str, tuple[str, ...]]:
    """The names of each parameter's moments, by parameter."""
    return {name: MOMENTS[group.optimizer] for group in groups for name in group.names}


def group_index(name: str, groups: Sequence[GroupSpec]) -> int | None:
    """The first group whose pattern matches a parameter's name; None if there is none."""
    return next((i for i, group in enumerate(groups) if fnmatchcase(name, group.match)), None)


def optimizer_of(name: str, shape: Shape, blocks: Sequence[str], spec: OptimizerSpec) -> OptimizerName:
    """The optimizer that updates a parameter: of its group if that names one, else Muon for matrices inside blocks."""
    index = group_index(name, spec.groups)
    stated = None if index is None else spec.groups[index].optimizer
    if stated is not None:
        return stated
    is_hidden = len(shape) == 2 and name.startswith(tuple(f"{block}." for block in blocks))
    return "muon" if spec.muon is not None and is_hidden else "adamw"


def is_decayed(shape: Sequence[int]) -> bool:
    """Whether a parameter of this shape has weight decay by default: matrices and tables, not norms and biases."""
    return len(shape) >= 2


def _default_decay(spec: OptimizerSpec, *, by_muon: bool) -> float:
    if not by_muon:
        return spec.weight_decay
    assert spec.muon is not None
    return spec.muon.weight_decay
