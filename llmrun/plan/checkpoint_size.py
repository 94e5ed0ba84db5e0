"""Bytes of a checkpoint: the payload of its tensors, and all files with headers and JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import NamedTuple

from llmrun.config.schema import Config
from llmrun.core.model.parameters import Shape
from llmrun.core.parameter_groups import ParameterGroup, moments_of
from llmrun.provenance.fingerprint import PARTS
from llmrun.storage.checkpoint.header import TensorHeader, render_header
from llmrun.storage.checkpoint.layout import MANIFEST, MODEL, OPTIMIZER, data_files, group_of, shard_name
from llmrun.storage.checkpoint.manifest import (
    CheckpointManifest,
    FileEntry,
    PieceEntry,
    TensorEntry,
    render_manifest,
    render_sums,
)

BYTES_PER_PARAMETER = 12
"""fp32 weight, fp32 first moment, fp32 second moment."""
TEXTBOOK_BYTES_PER_PARAMETER = 10
"""bf16 weight, fp32 first moment, fp32 second moment."""


class CheckpointSize(NamedTuple):
    """Bytes that llmrun writes, and the textbook's bf16 size for comparison.

    total, per_rank:                    12 bytes per parameter, 8 for one of Muon; a rank writes 1/D of it, rounded up
                                        (with Muon on average: AdamW's parameters come first in the flat buffer).
    textbook_total, textbook_per_rank:  2 bytes of bf16 weight and 8 of moments per parameter, 4 for one of Muon.
    N, N_muon:                          parameters, and those that Muon updates.
    """

    total: int
    per_rank: int
    textbook_total: int
    textbook_per_rank: int
    N: int
    N_muon: int = 0

    @property
    def parts(self) -> dict[str, int]:
        """`total` by part, with the manifest's names."""
        by_adamw = 4 * (self.N - self.N_muon)
        parts = {"parameter": 4 * self.N, "optimizer/exp_avg": by_adamw, "optimizer/exp_avg_sq": by_adamw}
        return parts | ({"optimizer/momentum_buffer": 4 * self.N_muon} if self.N_muon else {})


def checkpoint_size(N_params_total: int, D: int, N_muon: int = 0) -> CheckpointSize:
    """Sizes of one checkpoint written by D ranks.  N_muon: parameters that Muon updates, with one moment less."""
    total = payload_bytes(N_params_total, BYTES_PER_PARAMETER) - 4 * N_muon
    textbook = payload_bytes(N_params_total, TEXTBOOK_BYTES_PER_PARAMETER) - 4 * N_muon
    return CheckpointSize(total, -(-total // D), textbook, -(-textbook // D), N_params_total, N_muon)


def payload_bytes(N_params_total: int, bytes_per_parameter: int) -> int:
    """Bytes of all tensors; others keep 2 (bf16 weights), 10 (with moments) or 14 (with fp32 weights too)."""
    return bytes_per_parameter * N_params_total


@dataclass(frozen=True)
class Retention:
    """The number of checkpoints on disk at the end of a run, by the reason for which they are kept.

    newest: `keep_last`.  best: 1 if the best is kept.  permanent: multiples of `keep_every_steps`.
    Together they are at most the steps of the run, which saves at most once after each step.
    """

    newest: int
    best: int
    permanent: int

    @property
    def count(self) -> int:
        """All of them and the one being written."""
        return self.newest + self.best + self.permanent + 1


def retention_of(keep_last: int, keep_best: bool, keep_every_steps: int | None, steps: int) -> Retention:
    """The most checkpoints that exist at once in a run of `steps`.

    keep_best: whether the best is kept and exists, which takes evaluation.
    """
    newest = min(keep_last, steps)
    best = min(int(keep_best), steps - newest)
    multiples = steps // keep_every_steps if keep_every_steps is not None else 0
    return Retention(newest, best, min(multiples, steps - newest - best))


def retention_in(config: Config, steps: int) -> Retention:
    """The most checkpoints that exist at once in a run of this config."""
    keep, evaluates = config.checkpoint, config.eval.every_steps is not None
    return retention_of(keep.keep_last, keep.keep_best and evaluates, keep.keep_every_steps, steps)


RNG_BYTES = 10_376
"""rng.safetensors: the states of random, numpy and torch on the CPU (those of GPUs add 16 bytes each).

A constant, because what the generators keep is torch's and numpy's to decide.
"""
TRAINER_BYTES = 460
"""trainer.json, give or take the digits of its numbers."""
_DIGITS = 10**7
"""Stands for counts that are not known yet; only its number of digits matters."""


def checkpoint_bytes(
    parameters: Mapping[str, Shape], groups: Sequence[ParameterGroup], D: int, strategy: str
) -> int:
    """All files of one checkpoint: tensors exact, headers and JSON to 1 % of themselves."""
    moments = moments_of(groups)
    payload = sum(4 * (1 + len(moments[name])) * prod(size) for name, size in parameters.items())
    return payload + metadata_bytes(parameters, groups, D, strategy)


def metadata_bytes(
    parameters: Mapping[str, Shape], groups: Sequence[ParameterGroup], D: int, strategy: str
) -> int:
    """Headers and JSON: the bytes of a checkpoint that are not tensors of the model's state.

    Rendered by the functions that write a checkpoint, with zeros in the place of digests.
    """
    moments = moments_of(groups)
    parameters = {name: parameters[name] for name in moments}  # in flat order
    pieces = rows_of(parameters, D) if strategy == "shard" and D > 1 else pieces_of(parameters, D)
    headers = {
        shard_name(group, rank, D): len(render_header(_headers(here, group, moments)))
        for rank, here in enumerate(pieces)
        for group in (MODEL, OPTIMIZER)
    }
    sha256 = "0" * 64
    manifest = render_manifest(
        CheckpointManifest(
            step=_DIGITS,
            tokens=_DIGITS,
            fingerprint=sha256,
            parts=dict.fromkeys(PARTS, sha256),
            chain=sha256,
            files={name: FileEntry(_DIGITS, sha256) for name in data_files(D)},
            tensors={
                name + suffix: _tensor_entry(name, size, kind, pieces)
                for name, size in parameters.items()
                for suffix, kind in _kinds(moments[name]).items()
            },
        )
    )
    sums = render_sums(dict.fromkeys([*data_files(D), MANIFEST], sha256))
    return sum(headers.values()) + len(manifest) + len(sums) + RNG_BYTES + TRAINER_BYTES


def _kinds(moments: Sequence[str]) -> dict[str, str]:
    """The tensors kept of a parameter: suffix of the name -> kind."""
    return {"": "parameter"} | {f".{name}": f"optimizer/{name}" for name in moments}


def _headers(
    here: dict[str, tuple[int, ...]], group: str, moments: Mapping[str, Sequence[str]]
) -> list[TensorHeader]:
    """The tensors in one rank's file of a group."""
    return [
        TensorHeader(name + suffix, "F32", size)
        for name, size in here.items()
        for suffix, kind in _kinds(moments[name]).items()
        if group_of(kind) == group
    ]


def _tensor_entry(
    name: str, size: tuple[int, ...], kind: str, pieces: list[dict[str, tuple[int, ...]]]
) -> TensorEntry:
    """A tensor of the manifest, cut as `pieces` says."""
    start, entries = 0, []
    for rank, here in enumerate(pieces):
        if name in here:
            count = prod(here[name])
            entries.append(PieceEntry(shard_name(group_of(kind), rank, len(pieces)), start, count))
            start += count
    return TensorEntry(kind, "F32", tuple(size), "0" * 16, tuple(entries))


def pieces_of(parameters: Mapping[str, Shape], D: int) -> list[dict[str, tuple[int, ...]]]:
    """By rank: the tensors in its files and their shapes there; a cut tensor is flat.

    parameters: in flat order; that they start at multiples of 64 elements is not counted.
    """
    total = sum(prod(size) for size in parameters.values())
    cuts = [total * rank // D for rank in range(D + 1)]
    found: list[dict[str, tuple[int, ...]]] = []
    for first, last in pairwise(cuts):
        at, here = 0, {}
        for name in parameters:
            count = prod(parameters[name])
            own = min(last, at + count) - max(first, at)
            if own > 0:
                here[name] = tuple(parameters[name]) if own == count else (own,)
            at += count
        found.append(here)
    return found


def rows_of(parameters: Mapping[str, Shape], D: int) -> list[dict[str, tuple[int, ...]]]:
    """The same where FSDP2 cuts each parameter by rows, ceil(rows / D) to a rank."""
    found: list[dict[str, tuple[int, ...]]] = [{} for _ in range(D)]
    for name, size in parameters.items():
        rows = -(-size[0] // D)
        for rank, here in enumerate(found):
            own = min(rows, size[0] - rank * rows)
            if own > 0:
                here[name] = tuple(size) if own == size[0] else (own * prod(size[1:]),)
    return found
