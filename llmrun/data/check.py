"""`llmrun data check`: every file of a dataset against what its manifest says."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmrun.core.shards import DTYPES
from llmrun.data.manifest import SPLITS, DatasetManifest, SplitRecord, TokenShard, read_manifest
from llmrun.data.recipe import SOURCES_NAME
from llmrun.data.stream_digest import StreamDigest
from llmrun.data.tokenizers import load_tokenizer
from llmrun.errors import InputError
from llmrun.storage.durable import BLOCK_BYTES, sha256_of


@dataclass(frozen=True)
class DamagedFile:
    """One file that is not what it should be."""

    file: str
    message: str


def check_dataset(directory: Path) -> list[DamagedFile]:
    """All damage of a dataset: sizes, sha256s, token ids, stream digests, tokenizer, listing of the sources.

    Raises InputError where there is no dataset or its manifest is not sound.
    """
    manifest = read_manifest(directory, sizes=False)
    damages = [damage for name in SPLITS for damage in _check_split(directory, manifest, name)]
    try:
        load_tokenizer(directory, manifest)
    except InputError as error:
        damages.append(DamagedFile(manifest.tokenizer.file or "dataset.json", error.message))
    return damages + _check_sources(directory, manifest)


def _check_split(directory: Path, manifest: DatasetManifest, name: str) -> list[DamagedFile]:
    """The shards of one split; their common digest where each of them is sound."""
    split: SplitRecord = manifest.splits[name]
    stream = StreamDigest()
    checked = (_check_shard(directory / shard.name, shard, manifest, stream) for shard in split.shards)
    damages = [damage for damage in checked if damage is not None]
    if not damages and stream.hexdigest() != split.stream_digest:
        return [DamagedFile("dataset.json", f"the stream digest of {name} is not that of its shards")]
    return damages


def _check_shard(
    path: Path, shard: TokenShard, manifest: DatasetManifest, stream: StreamDigest
) -> DamagedFile | None:
    """One shard, read once; its tokens go into `stream`."""
    digest, largest = hashlib.sha256(), 0
    try:
        n_bytes = path.stat().st_size
        if n_bytes != shard.bytes:
            return DamagedFile(shard.name, f"has {n_bytes:,} bytes, not {shard.bytes:,}")
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
                tokens = np.frombuffer(block, dtype=DTYPES[manifest.dtype])
                stream.update(tokens)
                largest = max(largest, int(tokens.max()))
    except FileNotFoundError:
        return DamagedFile(shard.name, "is missing")
    except OSError as error:
        return DamagedFile(shard.name, f"cannot be read: {error.strerror}")
    if digest.hexdigest() != shard.sha256:
        return DamagedFile(shard.name, f"has sha256 {digest.hexdigest()}, not {shard.sha256}")
    if largest >= manifest.tokenizer.vocab_size:
        return DamagedFile(
            shard.name, f"holds the token {largest:,}; the vocabulary has {manifest.tokenizer.vocab_size:,}"
        )
    return None


def _check_sources(directory: Path, manifest: DatasetManifest) -> list[DamagedFile]:
    """The listing of the input files, where the recipe names one of ours."""
    inputs = manifest.recipe.get("inputs")
    if not isinstance(inputs, dict) or inputs.get("file") != SOURCES_NAME:
        return []
    try:
        found = sha256_of(directory / SOURCES_NAME)
    except FileNotFoundError:
        return [DamagedFile(SOURCES_NAME, "is missing")]
    except OSError as error:
        return [DamagedFile(SOURCES_NAME, f"cannot be read: {error.strerror}")]
    if found != inputs.get("sha256"):
        return [DamagedFile(SOURCES_NAME, f"has sha256 {found}, not {inputs.get('sha256')}")]
    return []
