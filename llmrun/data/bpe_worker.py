"""The process that trains a BPE: pieces of text on stdin, the tokenizer.json on stdout, progress on stderr.

The library blocks the main thread while it trains, so Python would not handle a signal; a process can be killed.
Run as `python -m llmrun.data.bpe_worker VOCAB_SIZE PARENT_PID`.
"""

import os
import struct
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

END_OF_TEXT = "<|endoftext|>"
FRAME = struct.Struct("<Q")
"""Before each piece: its length in bytes of UTF-8."""


def pieces_from(stream: BinaryIO) -> Iterator[str]:
    """Read the framed pieces of a stream."""
    while header := stream.read(FRAME.size):
        yield stream.read(FRAME.unpack(header)[0]).decode()


def train(pieces: Iterator[str], vocab_size: int) -> str:
    """Train a byte-level BPE.  Returns its tokenizer.json, the same for the same pieces in the same order."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from tokenizers import Tokenizer as Engine
    from tokenizers import decoders, models, pre_tokenizers, trainers

    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    engine.decoder = decoders.ByteLevel()
    reports = hasattr(trainers.BpeTrainer, "progress_format")  # since tokenizers 0.22.2
    progress: dict[str, Any] = {"progress_format": "json"} if reports else {}
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=reports,
        **progress,
    )
    engine.train_from_iterator(pieces, trainer)
    return f"{engine.to_str(pretty=True)}\n"


def main() -> None:
    """Train on the pieces on stdin."""
    from llmrun.machine import die_with_parent
    from llmrun.storage.durable import DISK

    vocab_size, parent = map(int, sys.argv[1:])
    die_with_parent(parent)
    content = train(pieces_from(sys.stdin.buffer), vocab_size).encode()
    DISK.write(sys.stdout.fileno(), memoryview(content))


if __name__ == "__main__":
    main()
