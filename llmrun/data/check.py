"""Checks a dataset: every file against the manifest, and the stream digests against the shards.

`llmrun data check` reads everything.  The start of a run compares only the stream digests (`contradicted_streams`):
the manifest states the sha256 of each shard and the digest of the whole stream, and the fingerprint contains only the
latter.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llmrun.core.token_stream import DTYPES
from llmrun.data.manifest import (
    MANIFEST_NAME,
    SPLITS,
    DatasetManifest,
    SplitRecord,
    TokenShard,
    read_manifest,
)
from llmrun.data.recipe import SOURCES_NAME
from llmrun.data.stream_digest import StreamDigest
from llmrun.data.tokenizers import load_tokenizer
from llmrun.errors import InputError
from llmrun.storage.durable import BLOCK_BYTES, sha256_of

START_TOKENS = 256 * 2**20
"""Largest dataset (tokens of both splits) that the start of a run reads whole: about a second of one core."""

DamageKind = Literal["missing", "unreadable", "size", "sha256", "token", "stream_digest", "tokenizer"]


@dataclass(frozen=True)
class DamagedFile:
    """One damaged file of a dataset.  message: a predicate, such as `is missing`."""

    file: str
    kind: DamageKind
    message: str


def check_dataset(directory: Path) -> list[DamagedFile]:
    """Check sizes, sha256s, token ids, stream digests, tokenizer and listing of the sources; [] if all are sound.

    Raises InputError if there is no dataset or its manifest is invalid.
    """
    manifest = read_manifest(directory, sizes=False)
    damages = [damage for name in SPLITS for damage in _check_split(directory, manifest, name)]
    try:
        load_tokenizer(directory, manifest)
    except InputError as error:
        damages.append(DamagedFile(manifest.tokenizer.file or MANIFEST_NAME, "tokenizer", error.message))
    return damages + _check_sources(directory, manifest)


def _check_split(directory: Path, manifest: DatasetManifest, name: str) -> list[DamagedFile]:
    """The damaged shards of one split; if there are none, its stream digest is compared, too."""
    split: SplitRecord = manifest.splits[name]
    stream = StreamDigest()
    checked = (_check_shard(directory / shard.name, shard, manifest, stream) for shard in split.shards)
    damages = [damage for damage in checked if damage is not None]
    if not damages and stream.hexdigest() != split.stream_digest:
        message = f"states another stream digest for {name} than its shards have"
        return [DamagedFile(MANIFEST_NAME, "stream_digest", message)]
    return damages


def _check_shard(
    path: Path, shard: TokenShard, manifest: DatasetManifest, stream: StreamDigest
) -> DamagedFile | None:
    """Read one shard once, and add its tokens to `stream`."""
    digest, largest, vocab_size = hashlib.sha256(), 0, manifest.tokenizer.vocab_size
    try:
        n_bytes = path.stat().st_size
        if n_bytes != shard.bytes:
            return DamagedFile(shard.name, "size", f"must have {shard.bytes:,} bytes, got {n_bytes:,}")
        for block, tokens in _blocks(path, manifest.dtype):
            digest.update(block)
            stream.update(tokens)
            largest = max(largest, int(tokens.max()))
    except FileNotFoundError:
        return DamagedFile(shard.name, "missing", "is missing")
    except OSError as error:
        return DamagedFile(shard.name, "unreadable", f"cannot be read: {error.strerror}")
    if digest.hexdigest() != shard.sha256:
        return _other_sha256(shard.name, shard.sha256, digest.hexdigest())
    if largest >= vocab_size:
        return DamagedFile(shard.name, "token", f"must have token ids below {vocab_size:,}, got {largest:,}")
    return None


def _blocks(path: Path, dtype: str) -> Iterator[tuple[bytes, NDArray[np.unsignedinteger]]]:
    """A shard in blocks: the bytes, and the whole tokens in them [n].  Raises OSError."""
    width = DTYPES[dtype].itemsize
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block, np.frombuffer(block[: len(block) - len(block) % width], dtype=DTYPES[dtype])


def _other_sha256(file: str, expected: object, found: str) -> DamagedFile:
    return DamagedFile(file, "sha256", f"must have sha256 {expected}, got {found}")


def _check_sources(directory: Path, manifest: DatasetManifest) -> list[DamagedFile]:
    """Check the listing of the input files, if the recipe names one."""
    inputs = manifest.recipe.get("inputs")
    if not isinstance(inputs, dict) or inputs.get("file") != SOURCES_NAME:
        return []
    try:
        found = sha256_of(directory / SOURCES_NAME)
    except FileNotFoundError:
        return [DamagedFile(SOURCES_NAME, "missing", "is missing")]
    except OSError as error:
        return [DamagedFile(SOURCES_NAME, "unreadable", f"cannot be read: {error.strerror}")]
    return [] if found == inputs.get("sha256") else [_other_sha256(SOURCES_NAME, inputs.get("sha256"), found)]


def within_start(manifest: DatasetManifest) -> bool:
    """Whether a dataset is small enough for the start of a run to read it whole."""
    return sum(manifest.splits[name].tokens for name in SPLITS) <= START_TOKENS


def contradicted_streams(directory: Path, manifest: DatasetManifest) -> list[str]:
    """Compare the stream digests with the shards: one sentence for each split that differs.

    Reads every token.  A split with a damaged or unreadable shard is passed over: the process that opens the shard
    reports it (`shard_reader`).
    """
    lines = []
    for name in SPLITS:
        try:
            found, stated = _stream_of(directory, manifest, name), manifest.splits[name].stream_digest
            if found != stated and _shards_are_sound(directory, manifest, name):
                lines.append(
                    f"the stream digest of {name} must be that of its shards, {found[:12]}…, got {stated[:12]}…"
                )
        except OSError:
            continue
    return lines


def _stream_of(directory: Path, manifest: DatasetManifest, name: str) -> str:
    """The stream digest of a split's shards, in hex.  Raises OSError."""
    stream = StreamDigest()
    for shard in manifest.splits[name].shards:
        for _, tokens in _blocks(directory / shard.name, manifest.dtype):
            stream.update(tokens)
    return stream.hexdigest()


def _shards_are_sound(directory: Path, manifest: DatasetManifest, name: str) -> bool:
    """Whether every shard of a split has the sha256 that the manifest states.  Raises OSError."""
    shards = manifest.splits[name].shards
    return all(sha256_of(directory / shard.name) == shard.sha256 for shard in shards)
