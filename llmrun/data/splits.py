"""Divides a corpus into the splits "train" and "val", and writes the tokens of both (docs/data-format.md, Splits)."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmrun.core.token_stream import DTYPES
from llmrun.data.documents import Corpus, Document, ReportProgress
from llmrun.data.manifest import SplitRecord, dtype_for
from llmrun.data.shard_writer import BUFFER_TOKENS, ShardWriter
from llmrun.data.tokenizers import Tokenizer
from llmrun.errors import InputError
from llmrun.storage.durable import Disk

FEW_DOCUMENTS = 100
"""With fewer documents, validation is the end of the token stream instead of a selection of documents."""

LARGEST_EXCESS = 0.05
"""Validation may always take this much more of the text than was asked for."""

ENCODE_BYTES = 4 * 2**20
"""Text that is tokenized at a time, at least one document."""


def exact_fraction(val_fraction: float) -> Fraction:
    """The decimal number that the user wrote, so that 0.1 is 1/10."""
    return Fraction(str(val_fraction))


def validation_documents(positions: NDArray[np.uint64], val_fraction: float) -> NDArray[np.bool_]:
    """Which documents are validation, from the positions in [0, 2^64) of all documents: bool [n].

    A position is the first 8 bytes of the sha256 of a document's text.
    Neither split is empty if the fraction is not 0 and at least two positions differ.
    """
    if val_fraction == 0 or not len(positions):
        return np.zeros(len(positions), dtype=np.bool_)
    last = ceil(exact_fraction(val_fraction) * 2**64) - 1
    chosen: NDArray[np.bool_] = positions <= np.uint64(last)
    lowest, highest = positions.min(), positions.max()
    if lowest != highest:
        chosen |= positions == lowest
        chosen &= positions != highest
    return chosen


def tail_tokens(n_tokens: int, val_fraction: float) -> int:
    """Tokens of a validation split that is the end of the stream, rounded down."""
    return int(n_tokens * exact_fraction(val_fraction))


def check_share(val_bytes: int, all_bytes: int, val_fraction: float) -> None:
    """Refuse a split by documents whose share of the text is far from `val_fraction`.

    Validation may have at most 5 percentage points more than that, or twice as much if that is more, but never all.
    Raises InputError.
    """
    got = val_bytes / all_bytes
    if val_bytes == all_bytes:
        raise InputError(
            "the training split must not be empty, but all documents are in validation",
            hints=["set a smaller `--val-fraction`"],
        )
    if got > val_fraction + max(LARGEST_EXCESS, val_fraction):
        raise InputError(
            f"validation must have about {val_fraction:.2%} of the text, got {got:.1%}: documents are not divided,"
            " and a large one is in validation",
            hints=[
                "divide large documents into several files, for example with `split -C 1M`",
                "`--val-fraction 0` makes no validation split",
            ],
        )


@dataclass
class SplitWriter:
    """Writes one split, and counts its documents and their text."""

    shards: ShardWriter
    documents: int = 0
    bytes_of_text: int = 0

    def add(self, document: Document, tokens: NDArray[np.uint32]) -> None:
        """Add one whole document with its tokens [n]."""
        self.shards.append(tokens)
        self.documents += 1
        self.bytes_of_text += document.bytes

    def finish(self) -> SplitRecord:
        """Close the last shard.  Returns the manifest's record of the split."""
        return self.shards.finish(self.documents, self.bytes_of_text)


@dataclass
class DocumentStarts:
    """Bytes of text of each document, and where it begins in the stream of all tokens."""

    sizes: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)


def write_splits(
    directory: Path,
    corpus: Corpus,
    tokenizer: Tokenizer,
    val_fraction: float,
    shard_tokens: int,
    report: ReportProgress,
    disk: Disk,
    on_document: Callable[[Document], None] = lambda _: None,
) -> dict[str, SplitRecord]:
    """Write the shards of "train" and "val" into `directory`.

    on_document: called with each document before it is encoded.
    bytes_of_text is exact, unless the cut between the splits divides a character.
    """
    encoded = encode_corpus(corpus, tokenizer, report, on_document)
    dtype = dtype_for(tokenizer.record.vocab_size)
    with ExitStack() as stack:
        train, val = (
            SplitWriter(stack.enter_context(_writer(directory, name, dtype, shard_tokens, disk)))
            for name in ("train", "val")
        )
        if corpus.n_documents >= FEW_DOCUMENTS:
            chosen = validation_documents(corpus.positions, val_fraction)
            for number, (document, tokens) in enumerate(encoded):
                (val if chosen[number] else train).add(document, tokens)
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
    corpus: Corpus, tokenizer: Tokenizer, report: ReportProgress, on_document: Callable[[Document], None]
) -> Iterator[tuple[Document, NDArray[np.uint32]]]:
    """Yield each document with its tokens and the token that ends it: uint32 [n + 1]."""
    end = np.array([tokenizer.record.eot_id], dtype=np.uint32)
    done = 0
    for batch in _batches(corpus):
        for document in batch:
            on_document(document)
        texts = [document.text for document in batch]
        for document, ids in zip(batch, tokenizer.encode_batch(texts), strict=True):
            yield document, np.concatenate([ids, end])
        done += sum(document.bytes for document in batch)
        report("tokenizing", done, corpus.n_bytes)


def _batches(corpus: Corpus) -> Iterator[list[Document]]:
    """Group neighbouring documents by ENCODE_BYTES."""
    batch: list[Document] = []
    n_bytes = 0
    for document in corpus.read():
        if batch and n_bytes + document.bytes > ENCODE_BYTES:
            yield batch
            batch, n_bytes = [], 0
        batch.append(document)
        n_bytes += document.bytes
    yield batch


@contextmanager
def _writer(directory: Path, split: str, dtype: str, shard_tokens: int, disk: Disk) -> Iterator[ShardWriter]:
    """A writer whose open file is closed on every exit."""
    writer = ShardWriter(directory, split, dtype, shard_tokens, disk)
    try:
        yield writer
    finally:
        writer.abort()


def _write_spool(
    spool: ShardWriter, encoded: Iterator[tuple[Document, NDArray[np.uint32]]]
) -> DocumentStarts:
    """Write all tokens to one file, because the position of the cut is known only at the end."""
    stream, n_tokens = DocumentStarts(), 0
    for document, tokens in encoded:
        stream.sizes.append(document.bytes)
        stream.starts.append(n_tokens)
        spool.append(tokens)
        n_tokens += len(tokens)
    return stream


def _cut(
    everything: NDArray[np.unsignedinteger],
    stream: DocumentStarts,
    tokenizer: Tokenizer,
    val_fraction: float,
    train: SplitWriter,
    val: SplitWriter,
) -> None:
    """Copy the beginning of the stream to `train` and the end to `val`."""
    cut = len(everything) - tail_tokens(len(everything), val_fraction)
    for writer, start, stop in ((train, 0, cut), (val, cut, len(everything))):
        for begin in range(start, stop, BUFFER_TOKENS):
            writer.shards.append(everything[begin : min(begin + BUFFER_TOKENS, stop)])
    stops = [*stream.starts[1:], len(everything)]
    for n_bytes, start, stop in zip(stream.sizes, stream.starts, stops, strict=True):
        if start >= cut:
            in_val = n_bytes
        elif stop <= cut:
            in_val = 0
        else:
            tail = tokenizer.decode(everything[cut : stop - 1].tolist())
            in_val = min(len(tail.encode()), n_bytes)
        val.bytes_of_text += in_val
        train.bytes_of_text += n_bytes - in_val
        (train if start < cut else val).documents += 1
