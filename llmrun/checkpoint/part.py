"""A part report: the file with which a rank tells rank 0 that its files are on disk, or why they are not."""

from dataclasses import dataclass
from pathlib import Path

from llmrun.checkpoint.dtypes import dtype_at, shape_at
from llmrun.checkpoint.layout import (
    MODEL,
    OPTIMIZER,
    PART_FORMAT,
    report_name,
    shard_name,
)
from llmrun.checkpoint.manifest import FileEntry, digest_at, kind_at, name_at, sha256_at
from llmrun.checkpoint.regular_file import read_small
from llmrun.checkpoint.snapshot import Piece
from llmrun.checkpoint.strict_json import (
    WrongValue,
    count_at,
    list_at,
    object_at,
    parse_object,
    shown,
)
from llmrun.durable import DISK, Disk, replace_json

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
    """What one rank wrote.  failure: why it could not, with the system's error number, or None."""

    rank: int
    files: dict[str, FileEntry]
    tensors: tuple[PartTensor, ...]
    failure: tuple[str, int | None] | None = None


@dataclass(frozen=True)
class Save:
    """Which save a part belongs to."""

    step: int
    attempt: str
    world: int


def part_tensor(piece: Piece, digest: int) -> PartTensor:
    """The record of a piece, without its values.  digest: 0 … 2^64-1."""
    assert 0 <= digest < 2**64, piece.name
    return PartTensor(
        piece.name, piece.kind, piece.dtype, piece.shape, piece.start, piece.values.size, digest
    )


def write_part(directory: Path, save: Save, part: Part, disk: Disk = DISK) -> None:
    """Write a rank's report whole or not at all, fsynced."""
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
    """Read a rank's report back, and check that its files are there with their full size.

    Raises CheckpointDamage, and WrongValue where the report does not fit this save.
    """
    document = parse_object(read_small(directory / report_name(rank), REPORT_BYTES_MAX))
    keys = ("format", "step", "attempt", "world", "rank", "files", "tensors", "failure")
    object_at(document, "the report", keys)
    stated = {key: document[key] for key in ("format", "step", "attempt", "world", "rank")}
    meant = {"format": PART_FORMAT, **vars(save), "rank": rank}
    if stated != meant:
        raise WrongValue(f"the report is for {shown(stated)}")
    if document["failure"] is not None:
        return Part(rank, {}, (), _failure_at(document["failure"]))
    files = _files_at(document["files"], directory, rank, save.world)
    tensors = tuple(_tensor_at(value) for value in list_at(document["tensors"], "tensors"))
    return Part(rank, files, tensors)


def _failure_at(value: object) -> tuple[str, int | None]:
    says, code = list_at(value, "failure")
    return str(says), None if code is None else count_at(code, "failure")


def _files_at(value: object, directory: Path, rank: int, world: int) -> dict[str, FileEntry]:
    rows = object_at(value, "files", [shard_name(group, rank, world) for group in (MODEL, OPTIMIZER)])
    files = {}
    for name, row in rows.items():
        fields = object_at(row, name, ("bytes", "sha256"))
        n_bytes = count_at(fields["bytes"], f"{name} bytes")
        found_bytes = (directory / name).lstat().st_size
        if found_bytes != n_bytes:
            raise WrongValue(f"{name} has {found_bytes:,} bytes, {n_bytes:,} were written")
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
