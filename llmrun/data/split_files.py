"""The shards of both splits: which documents are validation, and files of a fixed number of tokens."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmrun.core.shards import DTYPES
from llmrun.data.documents import Corpus, Document, Report, read_text
from llmrun.data.manifest import SplitRecord, TokenShard, dtype_for
from llmrun.data.stream_digest import StreamDigest
from llmrun.data.tokenizers import Tokenizer
from llmrun.errors import InputError
from llmrun.storage.durable import DISK, Disk, blocks_of

FEW_DOCUMENTS = 100


def exact_fraction(val_fraction: float) -> Fraction:
    """The decimal number that the user wrote: 0.1 is 1/10."""
    return Fraction(str(val_fraction))


def position_of(sha256: str) -> int:
    """Where a document lies in [0, 2^64)."""
    return int(sha256[:16], 16)


def validation_documents(hashes: Sequence[str], val_fraction: float) -> set[str]:
    """The sha256s of the validation documents, out of those of all documents.

    Neither split stays empty where the fraction is not 0 and two documents differ.
    """
    if val_fraction == 0:
        return set()
    limit = exact_fraction(val_fraction) * 2**64
    different = sorted(set(hashes), key=position_of)
    chosen = {sha256 for sha256 in different if position_of(sha256) < limit}
    if len(different) > 1:
        chosen.add(different[0])
        chosen.discard(different[-1])
    return chosen


def tail_tokens(n_tokens: int, val_fraction: float) -> int:
    """Tokens of the validation split where it is the end of the stream: rounded down."""
    return int(n_tokens * exact_fraction(val_fraction))


LARGEST_EXCESS = 0.05
"""Validation may always take so much more of the text than was asked for."""


def check_share(val_bytes: int, all_bytes: int, val_fraction: float) -> None:
    """Refuse a split by documents that is far from what was asked for, by bytes of text.

    The rule: validation gets at most 5 points more than --val-fraction, or twice of it if that is more, and never all.
    Raises InputError.
    """
    got = val_bytes / all_bytes
    if val_bytes == all_bytes:
        raise InputError(
            "the training split would be empty: all documents fall to validation",
            hints=["set a smaller `--val-fraction`"],
        )
    if got > val_fraction + max(LARGEST_EXCESS, val_fraction):
        raise InputError(
            f"validation would take {got:.1%} of the text, --val-fraction asks for {val_fraction:.2%}:"
            " documents are split whole, and a large one falls to validation",
            hints=[
                "cut large documents into several files, for example with `split -C 1M`",
                "`--val-fraction 0` keeps no validation split",
            ],
        )


BUFFER_TOKENS = 2**20


class ShardWriter:
    """Writes `<split>-00000.bin`, `<split>-00001.bin`, … into a directory, each fsynced."""

    def __init__(self, directory: Path, split: str, dtype: str, shard_tokens: int, disk: Disk = DISK) -> None:
        self.n_tokens = 0
        self._directory, self._split = directory, split
        self._dtype, self._shard_tokens = DTYPES[dtype], shard_tokens
        self._disk = disk
        self._stream = StreamDigest()
        self._shards: list[TokenShard] = []
        self._waiting: list[NDArray[np.unsignedinteger]] = []
        self._n_waiting = 0
        self._descriptor: int | None = None
        self._digest = hashlib.sha256()
        self._tokens_in_shard = 0

    def append(self, tokens: NDArray[np.unsignedinteger]) -> None:
        """Add tokens [n] of any unsigned dtype, each within the split's own."""
        self._waiting.append(tokens.astype(self._dtype))
        self._n_waiting += len(tokens)
        if self._n_waiting >= BUFFER_TOKENS:
            self._flush()

    def finish(self, documents: int, bytes_of_text: int) -> SplitRecord:
        """Close the last shard; what the manifest says of the split."""
        self._flush()
        self._close_shard()
        return SplitRecord(
            shards=tuple(self._shards),
            tokens=self.n_tokens,
            documents=documents,
            bytes_of_text=bytes_of_text,
            stream_digest=self._stream.hexdigest(),
        )

    def abandon(self) -> None:
        """Close an open shard without finishing it."""
        if self._descriptor is not None:
            self._disk.close(self._descriptor)
            self._descriptor = None

    def _flush(self) -> None:
        """Write what waits, across as many shards as it takes."""
        if not self._n_waiting:
            return
        tokens = np.concatenate(self._waiting)
        self._waiting, self._n_waiting = [], 0
        self._stream.update(tokens)
        self.n_tokens += len(tokens)
        while len(tokens):
            here = min(len(tokens), self._shard_tokens - self._tokens_in_shard)
            self._write(tokens[:here])
            tokens = tokens[here:]
            if self._tokens_in_shard == self._shard_tokens:
                self._close_shard()

    def _write(self, tokens: NDArray[np.unsignedinteger]) -> None:
        if self._descriptor is None:
            self._descriptor = self._disk.create(self._directory / self._name())
        for block in blocks_of(tokens.data):
            self._disk.write(self._descriptor, block)
            self._digest.update(block)
        self._tokens_in_shard += len(tokens)

    def _close_shard(self) -> None:
        if self._descriptor is None:
            return
        self._disk.fsync(self._descriptor)
        self._disk.close(self._descriptor)
        self._descriptor = None
        self._shards.append(
            TokenShard(
                name=self._name(),
                bytes=self._tokens_in_shard * self._dtype.itemsize,
                sha256=self._digest.hexdigest(),
                tokens=self._tokens_in_shard,
            )
        )
        self._digest = hashlib.sha256()
        self._tokens_in_shard = 0

    def _name(self) -> str:
        return f"{self._split}-{len(self._shards):05d}.bin"


ENCODE_BYTES = 4 * 2**20
"""Text that is tokenized at a time, at least one document."""


@dataclass
class Counted:
    """A writer with what went into it."""

    writer: ShardWriter
    documents: int = 0
    bytes_of_text: int = 0

    def add(self, document: Document, tokens: NDArray[np.uint32]) -> None:
        """One whole document."""
        self.writer.append(tokens)
        self.documents += 1
        self.bytes_of_text += document.bytes

    def finish(self) -> SplitRecord:
        """What the manifest says of the split."""
        return self.writer.finish(self.documents, self.bytes_of_text)


@dataclass
class Stream:
    """Where each document begins in the stream of all tokens; its last token ends it."""

    documents: list[Document] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)


def write_splits(
    directory: Path,
    corpus: Corpus,
    tokenizer: Tokenizer,
    val_fraction: float,
    shard_tokens: int,
    report: Report,
    disk: Disk,
) -> dict[str, SplitRecord]:
    """Write the shards of "train" and "val" into `directory`.

    bytes_of_text is exact, but where the cut between the splits divides a character.
    """
    encoded = encode_corpus(corpus, tokenizer, report)
    dtype = dtype_for(tokenizer.record.vocab_size)
    with ExitStack() as stack:
        train, val = (
            Counted(stack.enter_context(_writer(directory, name, dtype, shard_tokens, disk)))
            for name in ("train", "val")
        )
        if len(corpus.documents) >= FEW_DOCUMENTS:
            chosen = validation_documents([d.sha256 for d in corpus.documents], val_fraction)
            for document, tokens in encoded:
                (val if document.sha256 in chosen else train).add(document, tokens)
        else:
            spool = stack.enter_context(_writer(directory, "spool", dtype, 2**62, disk))
            stream = _write_spool(spool, encoded)
            path = directory / spool.finish(0, 0).shards[0].name
            everything = np.memmap(path, dtype=DTYPES[dtype], mode="r")
            _cut(everything, stream, tokenizer, val_fraction, train, val)
            del everything
            disk.remove_file(path)
        return {"train": train.finish(), "val": val.finish()}


def encode_corpus(
    corpus: Corpus, tokenizer: Tokenizer, report: Report
) -> Iterator[tuple[Document, NDArray[np.uint32]]]:
    """Each document with its tokens and the one that ends it: uint32 [n + 1]."""
    end = np.array([tokenizer.record.eot_id], dtype=np.uint32)
    done = 0
    for batch in _batches(corpus):
        texts = [read_text(document) for document in batch]
        for document, ids in zip(batch, tokenizer.encode_batch(texts), strict=True):
            yield document, np.concatenate([ids, end])
        done += sum(document.bytes for document in batch)
        report("tokenizing", done, corpus.n_bytes)


def _batches(corpus: Corpus) -> Iterator[list[Document]]:
    """Neighbouring documents of some MiB together."""
    batch: list[Document] = []
    n_bytes = 0
    for document in corpus.documents:
        if batch and n_bytes + document.bytes > ENCODE_BYTES:
            yield batch
            batch, n_bytes = [], 0
        batch.append(document)
        n_bytes += document.bytes
    yield batch


@contextmanager
def _writer(directory: Path, split: str, dtype: str, shard_tokens: int, disk: Disk) -> Iterator[ShardWriter]:
    """A writer whose open file is closed whatever happens."""
    writer = ShardWriter(directory, split, dtype, shard_tokens, disk)
    try:
        yield writer
    finally:
        writer.abandon()


def _write_spool(spool: ShardWriter, encoded: Iterator[tuple[Document, NDArray[np.uint32]]]) -> Stream:
    """All tokens in one file: the place of the cut is known only at the end."""
    stream, n_tokens = Stream(), 0
    for document, tokens in encoded:
        stream.documents.append(document)
        stream.starts.append(n_tokens)
        spool.append(tokens)
        n_tokens += len(tokens)
    return stream


def _cut(
    everything: NDArray[np.unsignedinteger],
    stream: Stream,
    tokenizer: Tokenizer,
    val_fraction: float,
    train: Counted,
    val: Counted,
) -> None:
    """Copy the beginning of the stream to one split and its end to the other."""
    cut = len(everything) - tail_tokens(len(everything), val_fraction)
    for counted, start, stop in ((train, 0, cut), (val, cut, len(everything))):
        for begin in range(start, stop, BUFFER_TOKENS):
            counted.writer.append(everything[begin : min(begin + BUFFER_TOKENS, stop)])
    stops = [*stream.starts[1:], len(everything)]
    for document, start, stop in zip(stream.documents, stream.starts, stops, strict=True):
        if start >= cut:
            in_val = document.bytes
        elif stop <= cut:
            in_val = 0
        else:
            tail = tokenizer.decode(everything[cut : stop - 1].tolist())
            in_val = min(len(tail.encode()), document.bytes)
        val.bytes_of_text += in_val
        train.bytes_of_text += document.bytes - in_val
        (train if start < cut else val).documents += 1
