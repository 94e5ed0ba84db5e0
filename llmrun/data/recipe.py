"""The recipe of a dataset: inputs, options and versions, so that anybody can make the same bytes again."""

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from llmrun import __version__
from llmrun.config.differences import leaf_differences
from llmrun.config.quantities import LARGEST, show_quantity
from llmrun.data.documents import Corpus
from llmrun.data.input_files import LEFT_OUT
from llmrun.data.tokenizers import LARGEST_BPE, SMALLEST_BPE
from llmrun.errors import InputError

SOURCES_NAME = "sources.sha256"
DEFAULT_VOCAB_SIZE = 32 * 1024
DEFAULT_VAL_FRACTION = 0.01
DEFAULT_SHARD_TOKENS = 64 * 2**20


@dataclass(frozen=True)
class PrepareOptions:
    """Options of `llmrun data prepare`.  tokenizer: "byte", "bpe" or the path of a tokenizer.json."""

    tokenizer: str
    vocab_size: int | None = None
    val_fraction: float = DEFAULT_VAL_FRACTION
    shard_tokens: int = DEFAULT_SHARD_TOKENS
    eot: str | None = None

    @property
    def kind(self) -> str:
        """The kind of the tokenizer in the manifest: byte | bpe | file."""
        return self.tokenizer if self.tokenizer in ("byte", "bpe") else "file"


def check_options(options: PrepareOptions) -> None:
    """Raises InputError for values out of range and for options that contradict each other."""
    if not 0 <= options.val_fraction < 1:
        raise InputError(
            f"--val-fraction must be at least 0 and less than 1, got {options.val_fraction}",
            hints=["the default is `--val-fraction 0.01`"],
        )
    if not 1 <= options.shard_tokens <= LARGEST:
        raise InputError(f"--shard-tokens must be at least 1, got {options.shard_tokens:,}")
    if options.vocab_size is not None:
        _check_vocab_size(options, options.vocab_size)
    if options.eot is not None and options.kind != "file":
        raise InputError(
            f"--eot requires a tokenizer.json, got `--tokenizer {options.kind}`, which has its own token",
            hints=["remove --eot"],
        )


def _check_vocab_size(options: PrepareOptions, vocab_size: int) -> None:
    if options.kind != "bpe":
        raise InputError(
            f"--vocab-size requires `--tokenizer bpe`, got `--tokenizer {options.tokenizer}`, which has its own size",
            hints=["remove --vocab-size"],
        )
    if not SMALLEST_BPE <= vocab_size <= LARGEST_BPE:
        raise InputError(
            f"--vocab-size must be between {SMALLEST_BPE} and {show_quantity(LARGEST_BPE)}, got {vocab_size:,}",
            hints=[f"`--vocab-size {SMALLEST_BPE}` has the 256 bytes and the token that ends a document"],
        )


def sources_text(corpus: Corpus) -> str:
    """The listing of the documents, in the form of `sha256sum`."""
    return "".join(f"{document.file_sha256}  {document.name}\n" for document in corpus.documents)


def recipe_of(corpus: Corpus, options: PrepareOptions, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The recipe for the manifest.  given: sha256 and eot_id of the user's tokenizer.json, if there is one."""
    tokenizer: dict[str, Any] = {"kind": options.kind}
    if options.kind == "bpe":
        tokenizer["vocab_size"] = options.vocab_size or DEFAULT_VOCAB_SIZE
    if given is not None:
        tokenizer |= given
    return {
        "inputs": {
            "file": SOURCES_NAME,
            "sha256": hashlib.sha256(sources_text(corpus).encode()).hexdigest(),
            "documents": len(corpus.documents),
            "bytes": corpus.n_bytes,
        },
        "left_out": _left_out(corpus),
        "text": {"byte_order_marks_removed": corpus.n_marks, "documents_with_crlf": corpus.n_crlf},
        "options": {
            "tokenizer": tokenizer,
            "val_fraction": options.val_fraction,
            "shard_tokens": options.shard_tokens,
        },
        "versions": _versions(options),
    }


def _left_out(corpus: Corpus) -> dict[str, int]:
    """How many files were left out, by reason that occurred."""
    counts = {key: corpus.left_out.get(key, 0) for key in LEFT_OUT} | {"empty": corpus.n_empty}
    return {key: count for key, count in counts.items() if count}


def _versions(options: PrepareOptions) -> dict[str, str]:
    """Versions of the software that makes the tokens."""
    versions = {"llmrun": __version__, "python": platform.python_version(), "numpy": np.__version__}
    if options.kind != "byte":
        versions["tokenizers"] = version("tokenizers")
    return versions


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """In what two recipes differ, versions aside: one line each."""
    return [
        f"{key}: {before} -> {after}"
        for part in ("inputs", "options")
        for key, before, after in leaf_differences(old.get(part), new.get(part), part)
    ]
