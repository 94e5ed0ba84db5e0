"""The parts of a checkpoint: a rank's snapshot and part report, and the merge of all reports."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrun.storage.checkpoint.files import read_small
from llmrun.storage.checkpoint.header import ELEMENT_BYTES, dtype_at, numel, shape_at
from llmrun.storage.checkpoint.layout import (
    ATTEMPT_PATTERN,
    KIND_PATTERN,
    MODEL,
    OPTIMIZER,
    PART_FORMAT,
    group_of,
    report_name,
    shard_name,
)
from llmrun.storage.checkpoint.manifest import (
    FileEntry,
    PieceEntry,
    TensorEntry,
    check_pieces,
    digest_at,
    kind_at,
    name_at,
    sha256_at,
)
from llmrun.storage.durable import DISK, Disk, replace_json
from llmrun.storage.strict_json import (
    WrongValue,
    count_at,
    list_at,
    object_at,
    parse_object,
    shown,
)


@dataclass(frozen=True, eq=False)
class TensorPiece:
    """One rank's part of one tensor.

    name, kind:  of the whole tensor; kind is one of layout.KINDS.
    dtype:       the safetensors name of the element type, such as F32.
    shape:       of the whole tensor.
    start:       index of the first element of `values` in the flattened tensor.
    values:      1-D, contiguous, of the numpy type that carries dtype (BF16: uint16).  Empty only if the tensor
                 has no elements.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    values: npt.NDArray[np.generic]

    def __post_init__(self) -> None:
        assert KIND_PATTERN.fullmatch(self.kind), self.kind
        assert self.values.ndim == 1, self.name
        assert self.values.flags.c_contiguous, self.name
        assert self.values.itemsize == ELEMENT_BYTES[self.dtype], self.name
        assert self.values.size > 0 or numel(self.shape) == 0, f"{self.name}: empty piece"
        assert 0 <= self.start <= numel(self.shape) - self.values.size, self.name

    @property
    def whole(self) -> bool:
        """Whether this rank holds all elements of the tensor."""
        return self.values.size == numel(self.shape)


@dataclass(frozen=True, eq=False)
class StateSnapshot:
    """What one rank saves of the state after `step` finished optimizer steps.

    attempt:           name of this save, the same on all ranks, used for one save of the step only.
    tokens:            tokens seen.  fingerprint, parts, chain: sha256s in hex.
    trainer:           trainer.json; finite JSON values only.  Written by rank 0.
    rng:               random states by name, of any shape.  Written by rank 0.
    model, optimizer:  this rank's pieces; either may be empty.
    digests:           computes a 64-bit digest per piece; those of all pieces of a tensor add up mod 2^64 to its
                       digest.  Called on another thread, while the values are written.
    """

    step: int
    attempt: str
    tokens: int
    fingerprint: str
    parts: Mapping[str, str]
    chain: str
    trainer: Mapping[str, Any]
    rng: Mapping[str, npt.NDArray[np.generic]]
    model: Sequence[TensorPiece]
    optimizer: Sequence[TensorPiece]
    digests: Callable[[Sequence[TensorPiece]], Sequence[int]]

    def __post_init__(self) -> None:
        assert self.step >= 0
        assert ATTEMPT_PATTERN.fullmatch(self.attempt), self.attempt
        assert all(group_of(piece.kind) == "model" for piece in self.model)
        assert all(group_of(piece.kind) == "optimizer" for piece in self.optimizer)

    @property
    def nbytes(self) -> int:
        """Bytes of this rank's tensors, without headers."""
        return sum(piece.values.nbytes for piece in (*self.model, *self.optimizer))


REPORT_BYTES_MAX = 256 * 1024 * 1024


@dataclass(frozen=True)
class PartTensor:
    """A rank's piece of one tensor: elements from `start` on, `count` of them, and their digest."""

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    count: int
    digest: int


@dataclass(frozen=True)
class Part:
    """What one rank wrote.  failure: (message, errno or None) if it could not write; its files are then gone."""

    rank: int
    files: dict[str, FileEntry]
    tensors: tuple[PartTensor, ...]
    failure: tuple[str, int | None] | None = None


@dataclass(frozen=True)
class Save:
    """The save that a part belongs to."""

    step: int
    attempt: str
    world: int


def part_tensor(piece: TensorPiece, digest: int) -> PartTensor:
    """A piece without its values.  digest: in [0, 2^64)."""
    assert 0 <= digest < 2**64, piece.name
    return PartTensor(
        piece.name, piece.kind, piece.dtype, piece.shape, piece.start, piece.values.size, digest
    )


def write_part(directory: Path, save: Save, part: Part, disk: Disk = DISK) -> None:
    """Write a rank's report atomically and durably."""
    document = {
        "format": PART_FORMAT,
        **vars(save),
        "rank": part.rank,
        "files": {name: vars(entry) for name, entry in part.files.items()},
        "tensors": [{**vars(tensor), "digest": f"{tensor.digest:016x}"} for tensor in part.tensors],
        "failure": None if part.failure is None else list(part.failure),
    }
    replace_json(directory / report_name(part.rank), document, disk)


def read_part(directory: Path, save: Save, rank: int) -> Part:
    """Read a rank's report back, and check that its files exist with their full size.

    Raises CheckpointDamage, and WrongValue if the report does not fit this save.
    """
    document = parse_object(read_small(directory / report_name(rank), REPORT_BYTES_MAX))
    keys = ("format", "step", "attempt", "world", "rank", "files", "tensors", "failure")
    object_at(document, "the report", keys)
    stated = {key: document[key] for key in ("format", "step", "attempt", "world", "rank")}
    meant = {"format": PART_FORMAT, **vars(save), "rank": rank}
    if stated != meant:
        raise WrongValue(f"the report must be for {shown(meant)}, got {shown(stated)}")
    if document["failure"] is not None:
        return Part(rank, {}, (), _failure_at(document["failure"]))
    files = _files_at(document["files"], directory, rank, save.world)
    tensors = tuple(_tensor_at(value) for value in list_at(document["tensors"], "tensors"))
    return Part(rank, files, tensors)


def _failure_at(value: object) -> tuple[str, int | None]:
    message, code = list_at(value, "failure")
    return str(message), None if code is None else count_at(code, "failure")


def _files_at(value: object, directory: Path, rank: int, world: int) -> dict[str, FileEntry]:
    rows = object_at(value, "files", [shard_name(group, rank, world) for group in (MODEL, OPTIMIZER)])
    files = {}
    for name, row in rows.items():
        fields = object_at(row, name, ("bytes", "sha256"))
        n_bytes = count_at(fields["bytes"], f"{name} bytes")
        found_bytes = (directory / name).lstat().st_size
        if found_bytes != n_bytes:
            raise WrongValue(f"{name} must have {n_bytes:,} bytes, got {found_bytes:,}")
        files[name] = FileEntry(n_bytes, sha256_at(fields["sha256"], f"{name} sha256"))
    return files


def _tensor_at(value: object) -> PartTensor:
    fields = object_at(value, "a tensor", list(PartTensor.__dataclass_fields__))
    return PartTensor(
        name=name_at(fields["name"], "a tensor's name"),
        kind=kind_at(fields["kind"], "kind"),
        dtype=dtype_at(fields["dtype"], "dtype"),
        shape=shape_at(fields["shape"], "shape"),
        start=count_at(fields["start"], "start"),
        count=count_at(fields["count"], "count"),
        digest=int(digest_at(fields["digest"], "digest"), 16),
    )


_DIGEST_MODULUS = 2**64


def merge_parts(parts: Sequence[Part], world: int) -> dict[str, TensorEntry]:
    """The tensors of a checkpoint, from the parts of the ranks 0 … world-1, in order of appearance.

    The digests of a tensor's pieces are added mod 2^64.  Raises WrongValue if ranks disagree about a tensor, or if its
    pieces do not cover it exactly.
    """
    assert [part.rank for part in parts] == list(range(world))
    firsts: dict[str, PartTensor] = {}
    digests: dict[str, int] = {}
    pieces: dict[str, list[PieceEntry]] = {}
    for part in parts:
        for tensor in part.tensors:
            first = firsts.setdefault(tensor.name, tensor)
            if (tensor.kind, tensor.dtype, tensor.shape) != (first.kind, first.dtype, first.shape):
                raise WrongValue(
                    f"rank {part.rank} holds {tensor.name} as {_described(tensor)}, "
                    f"an earlier rank as {_described(first)}"
                )
            digests[tensor.name] = (digests.get(tensor.name, 0) + tensor.digest) % _DIGEST_MODULUS
            held = pieces.setdefault(tensor.name, [])
            if tensor.count > 0:
                file = shard_name(group_of(tensor.kind), part.rank, world)
                held.append(PieceEntry(file, tensor.start, tensor.count))
    merged = {}
    for name, first in firsts.items():
        digest = f"{digests[name]:016x}"
        merged[name] = TensorEntry(first.kind, first.dtype, first.shape, digest, tuple(pieces[name]))
        check_pieces(merged[name], name)
    return merged


def _described(tensor: PartTensor) -> str:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return f"{tensor.kind} {tensor.dtype} {shape}"
