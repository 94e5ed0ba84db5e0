"""manifest.json, trainer.json and SHA256SUMS of a checkpoint: rendered, and parsed with every value checked."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmrun.storage.checkpoint.header import dtype_at, numel, shape_at
from llmrun.storage.checkpoint.layout import FORMAT, KIND_PATTERN, data_files, group_of, shard_index, world_of
from llmrun.storage.strict_json import (
    WrongValue,
    count_at,
    list_at,
    number_at,
    object_at,
    parse_object,
    shown,
    text_at,
)

MANIFEST_BYTES_MAX = 256 * 1024 * 1024

_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"[0-9a-f]{16}")
_PART = re.compile(r"[a-z_]{1,32}")
_NAME_CHARACTERS_MAX = 512


@dataclass(frozen=True)
class FileEntry:
    """A file: its size in bytes and its sha256 in hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class PieceEntry:
    """`count` elements of a flattened tensor, from `start` on, in one file."""

    file: str
    start: int
    count: int


@dataclass(frozen=True)
class TensorEntry:
    """A tensor: its kind, element type, shape, 64-bit digest (16 hex digits) and the pieces that hold its elements."""

    kind: str
    dtype: str
    shape: tuple[int, ...]
    digest: str
    pieces: tuple[PieceEntry, ...]

    @property
    def numel(self) -> int:
        """The number of elements."""
        return numel(self.shape)


@dataclass(frozen=True)
class CheckpointManifest:
    """The content of manifest.json after `step` finished optimizer steps and `tokens` tokens seen.

    fingerprint, parts, chain: sha256s in hex.  files, tensors: by name.
    """

    step: int
    tokens: int
    fingerprint: str
    parts: Mapping[str, str]
    chain: str
    files: Mapping[str, FileEntry]
    tensors: Mapping[str, TensorEntry]

    @property
    def world(self) -> int:
        """The number of ranks that wrote the checkpoint."""
        world = world_of(self.files)
        assert world is not None
        return world


def name_at(value: object, where: str) -> str:
    """`value` as a tensor's name: printable, without spaces.  Raises WrongValue."""
    sound = isinstance(value, str) and value.isprintable() and value.split() == [value]
    if not isinstance(value, str) or not sound or len(value) > _NAME_CHARACTERS_MAX:
        raise WrongValue(f"{where} must be printable, without spaces, got {shown(value)}")
    return value


def sha256_at(value: object, where: str) -> str:
    """`value` as a sha256 in lower-case hex.  Raises WrongValue."""
    return text_at(value, where, _SHA256, "64 lower-case hex digits")


def digest_at(value: object, where: str) -> str:
    """`value` as a 64-bit digest in lower-case hex.  Raises WrongValue."""
    return text_at(value, where, _DIGEST, "16 lower-case hex digits")


def kind_at(value: object, where: str) -> str:
    """`value` as a kind of tensor.  Raises WrongValue."""
    return text_at(value, where, KIND_PATTERN, "parameter, buffer, extra or optimizer/<slot>")


def render_manifest(manifest: CheckpointManifest) -> bytes:
    """The manifest as JSON with one line for each file and tensor, so that `diff` shows what changed."""
    lines = ["{", f' "format": {json.dumps(FORMAT)},']
    head = {
        "step": manifest.step,
        "tokens": manifest.tokens,
        "fingerprint": manifest.fingerprint,
        "parts": dict(manifest.parts),
        "chain": manifest.chain,
    }
    lines += [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    files = {name: vars(entry) for name, entry in manifest.files.items()}
    tensors = {name: _tensor_as_json(entry) for name, entry in manifest.tensors.items()}
    lines += [*_table("files", files), *_table("tensors", tensors)]
    return ("\n".join(lines).removesuffix(",") + "\n}\n").encode()


def _tensor_as_json(entry: TensorEntry) -> dict[str, object]:
    return {
        "kind": entry.kind,
        "dtype": entry.dtype,
        "shape": list(entry.shape),
        "digest": entry.digest,
        "pieces": [vars(piece) for piece in entry.pieces],
    }


def _table(key: str, rows: Mapping[str, object]) -> list[str]:
    body = [f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
    return [f' "{key}": {{', ",\n".join(body), " },"] if body else [f' "{key}": {{}},']


def parse_manifest(content: bytes) -> CheckpointManifest:
    """The manifest in `content`.  Raises WrongValue."""
    document = parse_object(content)
    stated = document.get("format")
    if stated != FORMAT:
        raise WrongValue(f"has unsupported format {shown(stated)} (expected {FORMAT})")
    keys = ("format", "step", "tokens", "fingerprint", "parts", "chain", "files", "tensors")
    object_at(document, "the document", keys)
    files = _files_at(document["files"])
    tensors = {
        name_at(name, "a tensor's name"): _tensor_at(value, f"tensor {shown(name)}", files)
        for name, value in object_at(document["tensors"], "tensors").items()
    }
    parts = object_at(document["parts"], "parts")
    return CheckpointManifest(
        step=count_at(document["step"], "step"),
        tokens=count_at(document["tokens"], "tokens"),
        fingerprint=sha256_at(document["fingerprint"], "fingerprint"),
        parts={
            text_at(part, "a part", _PART, "lower-case letters"): sha256_at(value, f"part {part}")
            for part, value in parts.items()
        },
        chain=sha256_at(document["chain"], "chain"),
        files=files,
        tensors=tensors,
    )


def _files_at(value: object) -> dict[str, FileEntry]:
    rows = object_at(value, "files")
    world = world_of(rows)
    if world is None:
        raise WrongValue("lists no files of model and optimizer, or those of different numbers of ranks")
    if len(rows) != 2 * world + 2:
        raise WrongValue(f"must list {2 * world + 2} files for {world} ranks, got {len(rows)}")
    unknown = sorted(rows.keys() - data_files(world))
    if unknown:
        raise WrongValue(f"lists the file {shown(unknown[0])}, which does not belong to a checkpoint")
    files = {}
    for name, row in rows.items():
        fields = object_at(row, f"file {name}", ("bytes", "sha256"))
        n_bytes = count_at(fields["bytes"], f"file {name} bytes")
        files[name] = FileEntry(n_bytes, sha256_at(fields["sha256"], f"file {name} sha256"))
    return files


def _tensor_at(value: object, where: str, files: Mapping[str, FileEntry]) -> TensorEntry:
    fields = object_at(value, where, ("kind", "dtype", "shape", "digest", "pieces"))
    kind = kind_at(fields["kind"], f"{where} kind")
    entry = TensorEntry(
        kind=kind,
        dtype=dtype_at(fields["dtype"], f"{where} dtype"),
        shape=shape_at(fields["shape"], f"{where} shape"),
        digest=digest_at(fields["digest"], f"{where} digest"),
        pieces=tuple(_piece_at(piece, where, kind, files) for piece in list_at(fields["pieces"], where)),
    )
    check_pieces(entry, where)
    return entry


def _piece_at(value: object, where: str, kind: str, files: Mapping[str, FileEntry]) -> PieceEntry:
    fields = object_at(value, f"{where} piece", ("file", "start", "count"))
    file = fields["file"]
    if not isinstance(file, str) or file not in files or shard_index(file, group_of(kind)) is None:
        raise WrongValue(f"{where} must have its pieces in {group_of(kind)} files, got {shown(file)}")
    return PieceEntry(file, count_at(fields["start"], where), count_at(fields["count"], where))


def check_pieces(entry: TensorEntry, where: str) -> None:
    """Check that pieces ascend with the number of their file and cover the tensor without gap or overlap.

    Raises WrongValue.
    """
    expected, last_index = 0, 0
    for piece in entry.pieces:
        index = shard_index(piece.file, group_of(entry.kind))
        assert index is not None
        if index <= last_index:
            raise WrongValue(f"{where} has pieces out of order at {piece.file}")
        if piece.count == 0 or piece.start != expected:
            raise WrongValue(
                f"{where} must go on at element {expected:,} in {piece.file}, "
                f"got {piece.count:,} elements from {piece.start:,} on"
            )
        expected, last_index = piece.start + piece.count, index
    if expected != entry.numel:
        raise WrongValue(f"{where} must have {entry.numel:,} elements in its pieces, got {expected:,}")


TRAINER_FORMAT = "llmrun-trainer/1"

_PERPLEXITIES = ("val_ppl", "best_val_ppl")
_STEPS = ("best_step", "best_saved_step")
_AVERAGE = ("decay", "total", "weight")


def check_trainer(document: Mapping[str, Any], step: int) -> None:
    """Check that a trainer.json of this format holds what the trainer reads back.  Raises WrongValue.

    step: of the checkpoint.  A wrong optimizer step would change the bias correction of every later update; the
    optimizer of a migrated state has a count of its own.  Documents of other formats belong to other trainers.
    """
    if document.get("format") != TRAINER_FORMAT:
        return
    missing = [key for key in (*_PERPLEXITIES, "best_step", "optimizer", "metrics") if key not in document]
    if missing:
        raise WrongValue(f"lacks {missing[0]!r}")
    for key in _PERPLEXITIES:
        if document[key] is not None:
            number_at(document[key], key)
    for key in _STEPS:
        if document.get(key) is not None:
            count_at(document[key], key)
    updates = count_at(object_at(document["optimizer"], "optimizer").get("step"), "optimizer step")
    if document.get("step", step) != step:
        raise WrongValue(f"must be of step {step} like its checkpoint, got {shown(document['step'])}")
    if updates != step and "migration" not in document:
        raise WrongValue(f"must state {step} updates of the optimizer like its checkpoint, got {updates}")
    average = object_at(object_at(document["metrics"], "metrics").get("loss_smooth"), "loss_smooth", _AVERAGE)
    for key in _AVERAGE:
        number_at(average[key], f"loss_smooth {key}")


_LINE_PATTERN = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9._-]+)")


def render_sums(sums: Mapping[str, str]) -> bytes:
    """SHA256SUMS as `sha256sum --check` reads it, sorted by name."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode("ascii")


def parse_sums(content: bytes) -> dict[str, str]:
    """The sha256 of each file, by name.  Raises WrongValue unless these are the bytes that `render_sums` writes."""
    lines = content.decode("ascii", errors="replace").split("\n")
    sums: dict[str, str] = {}
    for number, line in enumerate(lines[:-1], start=1):
        match = _LINE_PATTERN.fullmatch(line)
        if match is None:
            raise WrongValue(f"is damaged in line {number}")
        if match[2] in sums:
            raise WrongValue(f"names {match[2]} twice")
        sums[match[2]] = match[1]
    if render_sums(sums) != content:
        raise WrongValue("is damaged: its lines must be sorted")
    return sums
