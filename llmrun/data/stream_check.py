"""Holds the stream digests in `dataset.json` against the shards, before a run builds its fingerprint on them.

The sha256 of each shard and the digest of the whole stream are stated side by side: a file can be sound by the
one while the other names other data, and the fingerprint knows only the stream.
"""

from pathlib import Path

import numpy as np

from llmrun.core.shards import DTYPES
from llmrun.data.manifest import SPLITS, DatasetManifest
from llmrun.data.stream_digest import StreamDigest
from llmrun.storage.durable import sha256_of

START_TOKENS = 256 * 2**20
"""Tokens of both splits that a start reads for this: at most about a second of one core."""

_READ_TOKENS = 2 * 2**20


def within_start(manifest: DatasetManifest) -> bool:
    """Whether a dataset is small enough to be read whole when a segment starts."""
    return sum(manifest.splits[name].tokens for name in SPLITS) <= START_TOKENS


def contradicted_streams(directory: Path, manifest: DatasetManifest) -> list[str]:
    """The splits whose stream digest is not that of their shards, one line each; [] if all agree.

    Reads every token.  Says nothing of a split with a shard that is not what the manifest says or cannot be
    read: that shard is the damage, and is named by the process that opens it (`shards`, `check`).
    """
    lines = []
    for name in SPLITS:
        try:
            found = _stream_of(directory, manifest, name)
            stated = manifest.splits[name].stream_digest
            if found != stated and _shards_hold(directory, manifest, name):
                lines.append(
                    f"the stream digest of {name} must be that of its shards, {found[:12]}…, got {stated[:12]}…"
                )
        except OSError:
            continue
    return lines


def _stream_of(directory: Path, manifest: DatasetManifest, name: str) -> str:
    """The stream digest of a split's shards, in hex.  Raises OSError."""
    stream, dtype = StreamDigest(), DTYPES[manifest.dtype]
    for shard in manifest.splits[name].shards:
        with (directory / shard.name).open("rb") as file:
            while block := file.read(_READ_TOKENS * dtype.itemsize):
                whole = len(block) - len(block) % dtype.itemsize
                stream.update(np.frombuffer(block[:whole], dtype=dtype))
    return stream.hexdigest()


def _shards_hold(directory: Path, manifest: DatasetManifest, name: str) -> bool:
    """Whether every shard of a split has the sha256 that the manifest states.  Raises OSError."""
    shards = manifest.splits[name].shards
    return all(sha256_of(directory / shard.name) == shard.sha256 for shard in shards)
