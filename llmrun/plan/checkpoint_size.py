"""Bytes of a checkpoint: the payload of its tensors, and all files with headers and JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import NamedTuple

from llmrun.config.schema import Config
from llmrun.core.model.parameters import Shape

BYTES_PER_PARAMETER = 12
"""fp32 weight, fp32 first moment, fp32 second moment."""
TEXTBOOK_BYTES_PER_PARAMETER = 10
"""bf16 weight, fp32 first moment, fp32 second moment."""


class CheckpointSize(NamedTuple):
    """Bytes that llmrun writes, and the textbook's bf16 size for comparison.

    total, per_rank:                    12 bytes per parameter; a rank writes 1/D of it, rounded up.
    textbook_total, textbook_per_rank:  2 bytes of bf16 weight and 8 of moments per parameter.
    """

    total: int
    per_rank: int
    textbook_total: int
    textbook_per_rank: int

    @property
    def parts(self) -> dict[str, int]:
        """`total` by part, with the manifest's names."""
        third = self.total // 3
        return {"parameter": third, "optimizer/exp_avg": third, "optimizer/exp_avg_sq": third}


def checkpoint_size(N_params_total: int, D: int) -> CheckpointSize:
    """Sizes of one checkpoint written by D ranks."""
    total = payload_bytes(N_params_total, BYTES_PER_PARAMETER)
    textbook = payload_bytes(N_params_total, TEXTBOOK_BYTES_PER_PARAMETER)
    return CheckpointSize(total, -(-total // D), textbook, -(-textbook // D))


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


KINDS = {"": "parameter", ".exp_avg": "optimizer/exp_avg", ".exp_avg_sq": "optimizer/exp_avg_sq"}
FP32_BYTES = 4
HEADER_UNIT_BYTES = 64
RNG_BYTES = 10_376
"""rng.safetensors: the states of random, numpy and torch on the CPU (those of GPUs add 16 bytes each)."""
TRAINER_BYTES = 460
"""trainer.json, give or take the digits of its numbers."""
SUM_BYTES = 64 + 2 + 1
"""A line of SHA256SUMS without the file's name."""
HEAD_BYTES = 650
"""manifest.json without its tables."""


def checkpoint_bytes(parameters: Mapping[str, Shape], D: int, strategy: str) -> int:
    """All files of one checkpoint: tensors exact, headers and JSON to 1 % of themselves."""
    payload = checkpoint_size(sum(prod(size) for size in parameters.values()), D).total
    return payload + metadata_bytes(parameters, D, strategy)


def metadata_bytes(parameters: Mapping[str, Shape], D: int, strategy: str) -> int:
    """Headers and JSON: what is no tensor of the model's state."""
    pieces = rows_of(parameters, D) if strategy == "shard" and D > 1 else pieces_of(parameters, D)
    names = [
        f"{group}-{rank + 1:05d}-of-{D:05d}.safetensors"
        for group in ("model", "optimizer")
        for rank in range(D)
    ]
    headers = sum(
        header_bytes([(name + suffix, size) for name, size in rank.items() for suffix in suffixes])
        for rank in pieces
        for suffixes in (("",), (".exp_avg", ".exp_avg_sq"))
    )
    files = [*names, "rng.safetensors", "trainer.json"]
    sums = sum(SUM_BYTES + len(name) for name in (*files, "manifest.json"))
    table = sum(len(f'  "{name}": {{"bytes": 12345678, "sha256": "{"0" * 64}"}},\n') for name in files)
    manifest = (
        HEAD_BYTES
        + table
        + sum(
            tensor_line_bytes(name, size, suffix, pieces)
            for name, size in parameters.items()
            for suffix in KINDS
        )
    )
    return headers + sums + manifest + RNG_BYTES + TRAINER_BYTES


def pieces_of(parameters: Mapping[str, Shape], D: int) -> list[dict[str, tuple[int, ...]]]:
    """By rank: the tensors in its files and their shapes there; a cut tensor is flat.

    Matrices come first, as in the flat buffer; that parameters start at multiples of 64 elements is not counted.
    """
    ordered = sorted(parameters, key=lambda name: len(parameters[name]) < 2)
    total = sum(prod(size) for size in parameters.values())
    cuts = [total * rank // D for rank in range(D + 1)]
    found: list[dict[str, tuple[int, ...]]] = []
    for first, last in pairwise(cuts):
        at, here = 0, {}
        for name in ordered:
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


def header_bytes(tensors: list[tuple[str, tuple[int, ...]]]) -> int:
    """Length and header of one safetensors file, padded."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in tensors:
        start, end = end, end + FP32_BYTES * prod(size)
        header[name] = {"dtype": "F32", "shape": list(size), "data_offsets": [start, end]}
    length = 8 + len(json.dumps(header, separators=(",", ":")))
    return -(-length // HEADER_UNIT_BYTES) * HEADER_UNIT_BYTES


def tensor_line_bytes(
    name: str, size: tuple[int, ...], suffix: str, pieces: list[dict[str, tuple[int, ...]]]
) -> int:
    """One tensor's line of manifest.json."""
    group = "optimizer" if suffix else "model"
    start, rows = 0, []
    for rank, here in enumerate(pieces):
        if name in here:
            count = prod(here[name])
            file = f"{group}-{rank + 1:05d}-of-{len(pieces):05d}.safetensors"
            rows.append({"file": file, "start": start, "count": count})
            start += count
    line = {"kind": KINDS[suffix], "dtype": "F32", "shape": list(size), "digest": "0" * 16, "pieces": rows}
    return len(f"  {json.dumps(name + suffix)}: {json.dumps(line)},\n")
