"""Opens a checkpoint: checks its structure, reads its tensors by ranges.  Needs no torch.

Opening reads the small files and the headers of the large ones; `verification` reads every byte.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrun.errors import InputError
from llmrun.storage.checkpoint.errors import CheckpointDamage, Damage, damaged
from llmrun.storage.checkpoint.files import read_small, size_of
from llmrun.storage.checkpoint.header import HeaderEntry, numel
from llmrun.storage.checkpoint.layout import MANIFEST, RNG, SUMS, TRAINER, data_files, step_of, world_of
from llmrun.storage.checkpoint.manifest import (
    MANIFEST_BYTES_MAX,
    CheckpointManifest,
    TensorEntry,
    check_trainer,
    parse_manifest,
    parse_sums,
)
from llmrun.storage.checkpoint.safetensors import DTYPES, read_header, read_range
from llmrun.storage.strict_json import WrongValue, parse_object, shown

TRAINER_BYTES_MAX = 64 * 1024 * 1024
SUMS_BYTES_MAX = 64 * 1024 * 1024

OTHER_SHA256 = "has another sha256 than SHA256SUMS states"

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened checkpoint, whose names, sizes, manifest and headers agree.

    headers: the tensors in each safetensors file, by file name.
    """

    path: Path
    manifest: CheckpointManifest
    trainer: Mapping[str, Any]
    headers: Mapping[str, Mapping[str, HeaderEntry]]

    @property
    def step(self) -> int:
        """Finished optimizer steps."""
        return self.manifest.step

    @property
    def nbytes(self) -> int:
        """Bytes of all files that the manifest lists."""
        return sum(entry.bytes for entry in self.manifest.files.values())

    def tensor(self, name: str) -> TensorEntry:
        """The manifest's entry of a tensor.  Raises CheckpointDamage if there is none."""
        if name not in self.manifest.tensors:
            raise damaged(self.path / MANIFEST, f"has no tensor {shown(name)}", "missing")
        return self.manifest.tensors[name]

    def read(self, name: str, start: int = 0, count: int | None = None, out: Array | None = None) -> Array:
        """`count` elements of a flattened tensor from `start` on, from one or several files.

        count: None for all that follow.  out: an array to read into, made if None.
        Returns: [count], of the numpy type that carries the tensor's elements (BF16 as uint16).
        Needs no memory beyond the result.  Raises CheckpointDamage.
        """
        entry = self.tensor(name)
        stop = entry.numel if count is None else start + count
        assert 0 <= start <= stop <= entry.numel, f"{name}[{start}:{stop}] of {entry.numel}"
        if out is None:
            out = np.empty(stop - start, dtype=DTYPES[entry.dtype])
        assert out.shape == (stop - start,)
        assert out.dtype == DTYPES[entry.dtype]
        for piece in entry.pieces:
            first, last = max(start, piece.start), min(stop, piece.start + piece.count)
            if first < last:
                stored = self.headers[piece.file][name]
                read_range(
                    self.path / piece.file, stored, first - piece.start, out[first - start : last - start]
                )
        return out

    def read_all(self, name: str) -> Array:
        """A whole tensor in its shape."""
        return self.read(name).reshape(self.tensor(name).shape)

    def rng(self) -> dict[str, Array]:
        """The states of the random generators by name, each in its shape.  Raises CheckpointDamage."""
        states = {}
        for name, entry in self.headers[RNG].items():
            values = np.empty(numel(entry.shape), dtype=DTYPES[entry.dtype])
            read_range(self.path / RNG, entry, 0, values)
            states[name] = values.reshape(entry.shape)
        return states


def read_sums(path: Path) -> dict[str, str]:
    """The sha256 of each file by name, as SHA256SUMS states it.  Raises CheckpointDamage."""
    try:
        sums = parse_sums(read_small(path / SUMS, SUMS_BYTES_MAX))
    except WrongValue as error:
        raise damaged(path / SUMS, str(error)) from None
    world = world_of(sums)
    if world is None or len(sums) != 2 * world + 3 or sums.keys() != {*data_files(world), MANIFEST}:
        raise damaged(path / SUMS, "does not list the files of a checkpoint")
    return sums


def name_damages(path: Path, sums: Mapping[str, str]) -> list[Damage]:
    """The files that a checkpoint directory lacks, then those that do not belong there."""
    try:
        found = {entry.name for entry in path.iterdir()}
    except OSError as error:
        return [Damage(path.name, ".", f"cannot be read: {error.strerror}", "unreadable")]
    expected = {*sums, SUMS}
    missing = [Damage(path.name, name, "is missing", "missing") for name in sorted(expected - found)]
    extra = [
        Damage(path.name, _printable(name), "does not belong to the checkpoint", "unexpected")
        for name in sorted(found - expected)
    ]
    return missing + extra


def _printable(name: str) -> str:
    return name if name.isprintable() else shown(name)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint directory and check its structure: everything but the bytes of the tensors.

    Raises InputError if there is no such directory, CheckpointDamage if anything is not as written.
    """
    check_directory(path)
    sums = read_sums(path)
    damages = name_damages(path, sums)
    if damages:
        raise CheckpointDamage(damages[:1])
    manifest = _read_manifest(path, sums)
    headers = {name: read_header(path / name) for name in manifest.files if name.endswith(".safetensors")}
    _check_headers(path, manifest, headers)
    return Checkpoint(path, manifest, _read_trainer(path, sums, manifest.step), headers)


def check_directory(path: Path) -> None:
    """Raise InputError if there is no directory, CheckpointDamage if a link stands in its place."""
    if step_of(path.name) is not None and path.is_symlink():
        message = "is a symbolic link; checkpoints are directories of their own"
        raise CheckpointDamage([Damage(path.name, ".", message, "link")])
    if not path.is_dir():
        raise InputError(f"there is no checkpoint at {path}")


def _read_manifest(path: Path, sums: Mapping[str, str]) -> CheckpointManifest:
    content = _read_checked(path / MANIFEST, MANIFEST_BYTES_MAX, sums)
    try:
        manifest = parse_manifest(content)
    except WrongValue as error:
        raise damaged(path / MANIFEST, str(error)) from None
    named = step_of(path.name)
    if named is not None and named != manifest.step:
        raise damaged(path / MANIFEST, f"is of step {manifest.step}", "contradiction")
    if manifest.world != world_of(sums):
        message = f"lists the files of {manifest.world} ranks, SHA256SUMS those of {world_of(sums)}"
        raise damaged(path / MANIFEST, message, "contradiction")
    for name, entry in manifest.files.items():
        if entry.sha256 != sums[name]:
            message = "has one sha256 in SHA256SUMS and another in the manifest"
            raise damaged(path / name, message, "contradiction")
        found_bytes = size_of(path / name)
        if found_bytes != entry.bytes:
            message = f"must have {entry.bytes:,} bytes, got {found_bytes:,}"
            raise damaged(path / name, message, "size")
    return manifest


def _read_trainer(path: Path, sums: Mapping[str, str], step: int) -> dict[str, Any]:
    try:
        document = parse_object(_read_checked(path / TRAINER, TRAINER_BYTES_MAX, sums))
        check_trainer(document, step)
    except WrongValue as error:
        raise damaged(path / TRAINER, str(error)) from None
    return document


def _read_checked(path: Path, bytes_max: int, sums: Mapping[str, str]) -> bytes:
    """A small file, after its sha256 was checked."""
    content = read_small(path, bytes_max)
    if hashlib.sha256(content).hexdigest() != sums[path.name]:
        raise damaged(path, OTHER_SHA256, "checksum")
    return content


def _check_headers(
    path: Path, manifest: CheckpointManifest, headers: Mapping[str, Mapping[str, HeaderEntry]]
) -> None:
    """Check that each file holds the pieces that the manifest states: whole tensors in their shape, parts as 1-D."""
    expected: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {file: {} for file in headers}
    for name, tensor in manifest.tensors.items():
        for piece in tensor.pieces:
            shape = tensor.shape if piece.count == tensor.numel else (piece.count,)
            expected[piece.file][name] = (tensor.dtype, shape)
    for file, entries in headers.items():
        if file == RNG:
            continue
        found = {name: (entry.dtype, entry.shape) for name, entry in entries.items()}
        if found != expected[file]:
            odd = min(name for name, _ in found.items() ^ expected[file].items())
            message = f"does not hold tensor {shown(odd)} as the manifest states"
            raise damaged(path / file, message, "contradiction")
