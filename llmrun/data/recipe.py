"""The recipe of a dataset: inputs, options and versions, so that anybody can make the same bytes again."""

import hashlib
import platform
from collections import Counter
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
from llmrun.data.rows import DEFAULT_MAX_DOCUMENT, DEFAULT_READING, PROBLEMS, ReadOptions
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
    reading: ReadOptions = DEFAULT_READING

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
    if not 1 <= options.reading.max_document <= LARGEST:
        raise InputError(f"--max-document must be at least 1, got {options.reading.max_document:,}")
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
    """The listing of the files with documents, in the form of `sha256sum`."""
    return "".join(f"{file.sha256}  {file.name}\n" for file in corpus.files)


def check_rows_exist(corpus: Corpus) -> None:
    """Raises InputError for options about rows if no input file has any."""
    given = corpus.options
    if corpus.has_rows:
        return
    names = {
        "--text-field": given.text_field != DEFAULT_READING.text_field,
        "--id-field": given.id_field is not None,
        "--on-bad-row skip": given.on_bad_row != DEFAULT_READING.on_bad_row,
    }
    for name, is_given in names.items():
        if is_given:
            raise InputError(
                f"{name} requires files with rows (JSON lines, Parquet or Arrow), got only whole documents",
                hints=[f"remove {name}"],
            )


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
            "documents": corpus.n_documents,
            "bytes": corpus.n_bytes,
        },
        "formats": dict(sorted(Counter(file.format.name for file in corpus.files).items())),
        "left_out": _left_out(corpus),
        "text": {
            "byte_order_marks_removed": corpus.counts.get("marks", 0),
            "documents_with_crlf": corpus.counts.get("crlf", 0),
        },
        **_rows(corpus),
        "options": {
            "tokenizer": tokenizer,
            "val_fraction": options.val_fraction,
            "shard_tokens": options.shard_tokens,
            **_reading(corpus),
        },
        "versions": _versions(options),
    }


def _left_out(corpus: Corpus) -> dict[str, int]:
    """How many files were left out, by reason that occurred."""
    counts = {key: corpus.left_out.get(key, 0) for key in LEFT_OUT}
    counts |= {key: corpus.counts.get(key, 0) for key in ("empty", "missing_text", "files_without_rows")}
    return {key: count for key, count in counts.items() if count}


def _rows(corpus: Corpus) -> dict[str, Any]:
    """What was read of files with rows; {} if there are none."""
    if not corpus.has_rows:
        return {}
    bad = {key: corpus.counts[f"bad_{key}"] for key in PROBLEMS if corpus.counts.get(f"bad_{key}")}
    rows: dict[str, Any] = {"read": corpus.counts["rows"], "skipped": bad}
    if corpus.options.id_field is not None:
        rows["repeated_ids"] = corpus.counts.get("repeated_ids", 0)
    return {"rows": rows}


def _reading(corpus: Corpus) -> dict[str, Any]:
    """The options of reading that can matter; {} for whole documents and the usual limit."""
    given = corpus.options
    options: dict[str, Any] = {}
    if corpus.has_rows:
        options["rows"] = {
            "text_field": given.text_field,
            "id_field": given.id_field,
            "on_bad_row": given.on_bad_row,
        }
    if given.max_document != DEFAULT_MAX_DOCUMENT:
        options["max_document"] = given.max_document
    return options


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
