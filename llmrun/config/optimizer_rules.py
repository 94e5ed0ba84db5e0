"""Rules of the section `optimizer`: the defaults of Muon, and groups against the names of the model's parameters."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

from llmrun.config.schema import Config, OptimizerConfig
from llmrun.core.model.spec import ModelSpec
from llmrun.core.parameter_groups import OptimizerSpec, group_index, optimizer_of
from llmrun.errors import Problem

MUON_LR = 0.02
"""Keller Jordan's default (https://github.com/KellerJordan/Muon)."""
MUON_DEFAULTS = {"momentum": 0.95, "nesterov": True, "ns_steps": 5, "weight_decay": 0.1}
"""Those of `torch.optim.Muon`."""

NEAREST = 3


def complete_optimizer(optimizer: OptimizerConfig) -> OptimizerConfig:
    """`optimizer` with Muon's settings filled in if it is Muon.

    With `match_rms_adamw` the learning rate of AdamW can be reused (Liu et al. 2025, arXiv 2502.16982, section 2.2).
    """
    if optimizer.name != "muon":
        return optimizer
    given = {name: value for name, value in optimizer.muon.model_dump().items() if value is not None}
    adjust = given.get("adjust_lr_fn", "original")
    lr = optimizer.lr if adjust == "match_rms_adamw" else MUON_LR
    filled = {"lr": lr, "adjust_lr_fn": adjust, **MUON_DEFAULTS} | given
    return optimizer.model_copy(update={"muon": optimizer.muon.model_copy(update=filled)})


def setting_belongs_to_muon(name: str) -> Callable[[Config], list[Problem]]:
    """A check that a setting of `optimizer.muon` is given only if Muon is the optimizer."""

    def check(config: Config) -> list[Problem]:
        optimizer = config.optimizer
        if optimizer.name == "muon" or getattr(optimizer.muon, name) is None:
            return []
        message = f"optimizer.muon.{name} requires optimizer.name = muon, got {optimizer.name}"
        hint = f"set `--set optimizer.name=muon` or `--set optimizer.muon.{name}=null`"
        return [Problem(message, hint=hint)]

    return check


def groups_belong_to_muon(config: Config) -> list[Problem]:
    """A group with `optimizer: muon` requires optimizer.name = muon."""
    optimizer = config.optimizer
    if optimizer.name == "muon":
        return []
    return [
        Problem(
            f"optimizer.groups[{index}].optimizer = muon requires optimizer.name = muon, got {optimizer.name}",
            hint="set `--set optimizer.name=muon`",
        )
        for index, group in enumerate(optimizer.groups)
        if group.optimizer == "muon"
    ]


def group_problems(spec: OptimizerSpec, model: ModelSpec) -> list[tuple[str, Problem]]:
    """What is wrong with the groups of a resolved config for this model, each with the key that it is about."""
    if not spec.groups and spec.muon is None:
        return []
    parameters = model.parameters
    found: list[tuple[str, Problem]] = []
    for index in range(len(spec.groups)):
        found += _pattern_problems(index, spec, parameters)
    updated_by_muon = {
        name
        for name, shape in parameters.items()
        if name not in model.frozen and optimizer_of(name, shape, model.blocks, spec) == "muon"
    }
    found += _shape_problems(spec, parameters, updated_by_muon)
    if spec.muon is not None and not updated_by_muon:
        message = "optimizer.name = muon requires a matrix inside a block, got none that Muon updates"
        hint = 'set `--set optimizer.name=adamw`, or give Muon matrices: `{match: "…", optimizer: muon}`'
        found.append(("optimizer.name", Problem(message, hint=hint)))
    return found


def _pattern_problems(
    index: int, spec: OptimizerSpec, parameters: Mapping[str, tuple[int, ...]]
) -> list[tuple[str, Problem]]:
    """A pattern that matches no parameter, or none that an earlier group leaves."""
    key, pattern = f"optimizer.groups[{index}].match", spec.groups[index].match
    matched = [name for name in parameters if fnmatchcase(name, pattern)]
    if not matched:
        names = ", ".join(nearest_parameters(pattern, parameters))
        message = f"{key} must match a parameter of the model, got {pattern}"
        return [(key, Problem(message, hint=f"the nearest parameters are {names}"))]
    taken = {group_index(name, spec.groups) for name in matched}
    if index in taken:
        return []
    earlier = " and ".join(f"groups[{i}]" for i in sorted(i for i in taken if i is not None))
    message = f"{key} must match a parameter that no earlier group matches, got {pattern}"
    return [(key, Problem(message, hint=f"the first match wins: put it before {earlier}, or remove it"))]


def _shape_problems(
    spec: OptimizerSpec, parameters: Mapping[str, tuple[int, ...]], updated_by_muon: Iterable[str]
) -> list[tuple[str, Problem]]:
    """The first parameter of each group that Muon shall update and that is no matrix."""
    wrong: dict[int, str] = {}
    for name in updated_by_muon:
        index = group_index(name, spec.groups)
        if len(parameters[name]) != 2 and index is not None:
            wrong[index] = min(name, wrong.get(index, name))
    return [
        (
            f"optimizer.groups[{index}].optimizer",
            Problem(
                f"optimizer.groups[{index}] must match matrices only, got {name} of shape {list(parameters[name])}",
                hint="Muon updates matrices; narrow the pattern, or put a group of the others before it",
            ),
        )
        for index, name in sorted(wrong.items())
    ]


def nearest_parameters(pattern: str, names: Iterable[str]) -> list[str]:
    """Up to three parameter names that are most similar to a pattern; of like blocks the first one's."""
    core = pattern.strip("*?.")
    depth = core.count(".") + 1
    distinct: dict[str, str] = {}
    for name in names:
        distinct.setdefault(re.sub(r"\.[0-9]+\.", ".N.", name), name)

    def similarity(name: str) -> float:
        end = ".".join(name.split(".")[-depth:])
        return max(difflib.SequenceMatcher(None, core, whole).ratio() for whole in (end, name))

    return sorted(distinct.values(), key=similarity, reverse=True)[:NEAREST]
