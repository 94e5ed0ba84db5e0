"""Makes a dataset of random tokens, to time a model before its data exists."""

from pathlib import Path

import numpy as np

from llmrun.core.splitmix import splitmix64_array
from llmrun.data.manifest import DatasetManifest, TokenizerRecord, dtype_for, write_manifest
from llmrun.data.shard_writer import ShardWriter
from llmrun.storage.durable import make_directories

NO_TOKENIZER = "0" * 64


def write_random_dataset(directory: Path, vocab_size: int, n_tokens: int) -> DatasetManifest:
    """Make the dataset `directory` of `n_tokens` training tokens, uniform over the vocabulary; validation is empty.

    The same arguments give the same tokens.
    """
    make_directories(directory)
    dtype = dtype_for(vocab_size)
    train = ShardWriter(directory, "train", dtype, n_tokens)
    tokens = splitmix64_array(np.arange(n_tokens, dtype=np.uint64)) % np.uint64(vocab_size)
    train.append(tokens)
    manifest = DatasetManifest(
        dtype=dtype,
        tokenizer=TokenizerRecord("byte", vocab_size, 0, None, NO_TOKENIZER),
        splits={
            "train": train.finish(documents=1, bytes_of_text=n_tokens),
            "val": ShardWriter(directory, "val", dtype, 1).finish(documents=0, bytes_of_text=0),
        },
        recipe={"kind": "random"},
    )
    write_manifest(directory, manifest)
    return manifest
