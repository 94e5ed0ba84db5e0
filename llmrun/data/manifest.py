"""The manifest of a dataset directory, `dataset.json`: tokenizer, splits, shards, recipe; read strictly."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.config.resolve import DatasetFacts
from llmrun.core.token_stream import DTYPES
from llmrun.errors import InputError, Place
from llmrun.storage.durable import DISK, Disk, write_new
from llmrun.storage.regular_file import read_regular_file
from llmrun.storage.strict_json import COUNT_MAX, WrongValue, parse_object, shown

FORMAT = "llmrun-dataset/1"
MANIFEST_NAME = "dataset.json"

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Fields:
    """One JSON object of a manifest.  key: its dotted place, "" for the whole."""

    path: Path
    key: str
    values: Mapping[str, Any]

    def wrong(self, name: str, message: str) -> InputError:
        """The error for one field."""
        key = f"{self.key}.{name}" if self.key else name
        return InputError(f"{key} {message}", where=str(self.path))

    def value(self, name: str) -> Any:
        """A field that must be there."""
        if name not in self.values:
            raise self.wrong(name, "is missing")
        return self.values[name]

    def only(self, *names: str) -> None:
        """Refuse fields of other names."""
        for name in self.values:
            if name not in names:
                raise self.wrong(name, f"is unknown; known are {', '.join(names)}")

    def integer(self, name: str, least: int = 0, most: int = COUNT_MAX) -> int:
        """A whole number within bounds."""
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(name, f"must be a whole number, not {shown(value)}")
        if not least <= value <= most:
            raise self.wrong(name, f"must lie in {least:,} … {most:,}, not {value:,}")
        return value

    def equal(self, name: str, expected: int, meaning: str) -> int:
        """A whole number that another field fixes."""
        value = self.integer(name)
        if value != expected:
            raise self.wrong(name, f"is {value:,}, but {meaning} are {expected:,}")
        return value

    def text(self, name: str) -> str:
        """A string."""
        value = self.value(name)
        if not isinstance(value, str):
            raise self.wrong(name, f"must be text, not {shown(value)}")
        return value

    def one_of(self, name: str, allowed: tuple[str, ...]) -> str:
        """A string out of a few."""
        value = self.text(name)
        if value not in allowed:
            raise self.wrong(name, f"must be one of {', '.join(allowed)}, not {shown(value)}")
        return value

    def sha256(self, name: str) -> str:
        """A sha256 in lower-case hex."""
        value = self.text(name)
        if not _SHA256.fullmatch(value):
            raise self.wrong(name, f"must be 64 lower-case hex digits, not {shown(value)}")
        return value

    def file_name(self, name: str) -> str:
        """The name of a file in the dataset's own directory: no way out of it."""
        value = self.text(name)
        if not _FILE_NAME.fullmatch(value):
            raise self.wrong(name, f"must be a plain file name, not {shown(value)}")
        return value

    def object(self, name: str) -> "Fields":
        """A nested object."""
        value = self.value(name)
        if not isinstance(value, dict):
            raise self.wrong(name, f"must be an object, not {shown(value)}")
        return Fields(self.path, f"{self.key}.{name}" if self.key else name, value)

    def objects(self, name: str) -> list["Fields"]:
        """A list of objects."""
        value = self.value(name)
        if not isinstance(value, list):
            raise self.wrong(name, f"must be a list, not {shown(value)}")
        holder = Fields(self.path, self.key, {f"{name}[{i}]": item for i, item in enumerate(value)})
        return [holder.object(item) for item in holder.values]


def load_object(directory: Path) -> Fields:
    """`dataset.json` of a directory as an object of the right format.  Raises InputError."""
    path = directory / MANIFEST_NAME
    root = Fields(path, "", _parse(path, _read(directory, path)))
    found = root.value("format")
    if found != FORMAT:
        raise InputError(
            f"dataset.json has the format {shown(found)}; this llmrun reads {shown(FORMAT)}",
            where=str(path),
        )
    return Fields(path, "", root.values)


def _read(directory: Path, path: Path) -> bytes:
    """The bytes of the file, or an error that says what is there instead."""
    make = "make a dataset with `llmrun data prepare INPUT… --out DIR --tokenizer bpe`"
    try:
        return read_regular_file(path)
    except FileNotFoundError as error:
        if directory.is_dir():
            message = f"{directory} is not a dataset: it has no dataset.json"
        else:
            message = f"there is no dataset directory {directory}"
        raise InputError(message, hints=[make]) from error
    except NotADirectoryError as error:
        raise InputError(f"{directory} is a file, not a dataset directory", hints=[make]) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    """The JSON object in dataset.json.  Raises InputError."""
    try:
        return parse_object(content)
    except WrongValue as error:
        raise InputError(f"dataset.json {error}", where=Place(str(path), error.line)) from error


SPLITS = ("train", "val")
KINDS = ("byte", "bpe", "file")
SMALL_VOCABULARY = 2**16
"""The largest vocabulary whose ids fit uint16."""
LARGEST_VOCABULARY = 2**31
"""Windows are int32."""

COPY_HINT = "copy the file again, or prepare the dataset again with `llmrun data prepare`"

SPLIT_FIELDS = ("tokens", "documents", "bytes_of_text", "stream_digest", "shards")


@dataclass(frozen=True)
class TokenShard:
    """One file of tokens.  sha256 in hex, of the whole file."""

    name: str
    bytes: int
    sha256: str
    tokens: int


@dataclass(frozen=True)
class SplitRecord:
    """One split: its shards in order, and their content.

    documents: documents that begin in the split.  bytes_of_text: UTF-8 bytes without the tokens that end documents.
    stream_digest: see `stream_digest.StreamDigest`.
    """

    shards: tuple[TokenShard, ...]
    tokens: int
    documents: int
    bytes_of_text: int
    stream_digest: str

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text per token; converts nats per token to bits per byte."""
        return self.bytes_of_text / self.tokens


@dataclass(frozen=True)
class TokenizerRecord:
    """The tokenizer of a dataset.

    kind: byte | bpe (trained by llmrun) | file (given by the user).  file: None for byte.
    sha256: of the file; for byte, of what defines it.
    """

    kind: str
    vocab_size: int
    eot_id: int
    file: str | None
    sha256: str


@dataclass(frozen=True)
class DatasetManifest:
    """The content of `dataset.json`.  dtype: "uint16" | "uint32".  recipe: how the dataset was made."""

    dtype: str
    tokenizer: TokenizerRecord
    splits: Mapping[str, SplitRecord]
    recipe: Mapping[str, Any]


def dtype_for(vocab_size: int) -> str:
    """The narrowest dtype that holds every id of a vocabulary."""
    return "uint16" if vocab_size <= SMALL_VOCABULARY else "uint32"


def share_of(manifest: DatasetManifest, split: str) -> float:
    """The fraction of all tokens that is in a split."""
    return manifest.splits[split].tokens / max(sum(record.tokens for record in manifest.splits.values()), 1)


def facts(manifest: DatasetManifest) -> DatasetFacts:
    """The sizes of a dataset that resolving a config needs."""
    return DatasetFacts(
        vocab_size=manifest.tokenizer.vocab_size,
        train_tokens=manifest.splits["train"].tokens,
        val_tokens=manifest.splits["val"].tokens,
    )


def fingerprint_of(manifest: DatasetManifest) -> dict[str, Any]:
    """The preimage of the fingerprint's part `data`."""
    return {
        "train": manifest.splits["train"].stream_digest,
        "val": manifest.splits["val"].stream_digest,
        "tokenizer": manifest.tokenizer.sha256,
        "quarantine": [],
    }


def recorded_of(manifest: DatasetManifest) -> dict[str, Any]:
    """What is recorded but not digested, because it cannot change bits: dtype, shards and recipe."""
    shards = {name: [vars(shard) for shard in split.shards] for name, split in manifest.splits.items()}
    return {"dtype": manifest.dtype, "shards": shards, "recipe": dict(manifest.recipe)}


def write_manifest(directory: Path, manifest: DatasetManifest, disk: Disk = DISK) -> None:
    """Write `dataset.json` into a directory that does not have one yet, fsynced."""
    splits = {
        name: {**vars(split), "shards": [vars(shard) for shard in split.shards]}
        for name, split in manifest.splits.items()
    }
    content = {
        "format": FORMAT,
        "dtype": manifest.dtype,
        "tokenizer": vars(manifest.tokenizer),
        "splits": {name: {field: split[field] for field in SPLIT_FIELDS} for name, split in splits.items()},
        "recipe": dict(manifest.recipe),
    }
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_new(directory / MANIFEST_NAME, [text.encode()], disk)


def read_manifest(directory: Path, *, sizes: bool = True) -> DatasetManifest:
    """Read and check `dataset.json`.

    sizes: also check that every file it names is there and has the size it states.
    Raises InputError naming the file and the field.
    """
    root = load_object(directory)
    root.only("format", "dtype", "tokenizer", "splits", "recipe")
    dtype = root.one_of("dtype", tuple(DTYPES))
    tokenizer = _read_tokenizer(root.object("tokenizer"), dtype)
    splits = root.object("splits")
    splits.only(*SPLITS)
    manifest = DatasetManifest(
        dtype=dtype,
        tokenizer=tokenizer,
        splits={name: _read_split(splits.object(name), dtype) for name in SPLITS},
        recipe=root.object("recipe").values,
    )
    _check_names(root, manifest)
    if sizes:
        for name, n_bytes in files_of(manifest):
            _check_size(directory / name, n_bytes)
    return manifest


def files_of(manifest: DatasetManifest) -> list[tuple[str, int | None]]:
    """The files that a manifest names, each with its size; None if it does not state one."""
    shards: list[tuple[str, int | None]] = [
        (shard.name, shard.bytes) for name in SPLITS for shard in manifest.splits[name].shards
    ]
    tokenizer = manifest.tokenizer.file
    return [*shards, (tokenizer, None)] if tokenizer is not None else shards


def _read_tokenizer(fields: Fields, dtype: str) -> TokenizerRecord:
    fields.only("kind", "vocab_size", "eot_id", "file", "sha256")
    largest = SMALL_VOCABULARY if dtype == "uint16" else LARGEST_VOCABULARY
    kind = fields.one_of("kind", KINDS)
    vocab_size = fields.integer("vocab_size", least=1, most=largest)
    return TokenizerRecord(
        kind=kind,
        vocab_size=vocab_size,
        eot_id=fields.integer("eot_id", least=0, most=vocab_size - 1),
        file=None if kind == "byte" else fields.file_name("file"),
        sha256=fields.sha256("sha256"),
    )


def _read_split(fields: Fields, dtype: str) -> SplitRecord:
    fields.only(*SPLIT_FIELDS)
    shards = tuple(_read_shard(shard, dtype) for shard in fields.objects("shards"))
    total = sum(shard.tokens for shard in shards)
    return SplitRecord(
        shards=shards,
        tokens=fields.equal("tokens", total, "the tokens of its shards"),
        documents=fields.integer("documents"),
        bytes_of_text=fields.integer("bytes_of_text"),
        stream_digest=fields.sha256("stream_digest"),
    )


def _read_shard(fields: Fields, dtype: str) -> TokenShard:
    fields.only("name", "bytes", "sha256", "tokens")
    tokens = fields.integer("tokens", least=1)
    width = DTYPES[dtype].itemsize
    return TokenShard(
        name=fields.file_name("name"),
        bytes=fields.equal("bytes", tokens * width, f"tokens times {width} bytes"),
        sha256=fields.sha256("sha256"),
        tokens=tokens,
    )


def _check_names(root: Fields, manifest: DatasetManifest) -> None:
    """Raises InputError if two files have the same name."""
    seen = {MANIFEST_NAME}
    for name, _ in files_of(manifest):
        if name in seen:
            raise root.wrong("splits", f"names the file {name} twice")
        seen.add(name)


def _check_size(path: Path, expected: int | None) -> None:
    """Raises InputError if a file is missing, is not a regular file, or has another size."""
    if not path.is_file():
        raise InputError(
            f"{path.name} is missing from the dataset",
            where=str(path),
            hints=[COPY_HINT],
        )
    found = path.stat().st_size
    if expected is not None and found != expected:
        raise InputError(
            f"{path.name} must have {expected:,} bytes as in dataset.json, got {found:,}",
            where=str(path),
            hints=[COPY_HINT],
        )
