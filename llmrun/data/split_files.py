"""The shards of both splits from a corpus: by document hash, or the end of the stream for few documents."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmrun.data.documents import Corpus, Document, Report, read_text
from llmrun.data.manifest import DTYPES, SplitRecord, dtype_for
from llmrun.data.shard_writer import BUFFER_TOKENS, ShardWriter
from llmrun.data.splitting import FEW_DOCUMENTS, tail_tokens, validation_documents
from llmrun.data.tokenizers import Tokenizer
from llmrun.durable import Disk

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
