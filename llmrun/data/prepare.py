"""`llmrun data prepare`: makes a dataset directory from text, completely or not at all.

The tokens of each document are followed by the token that ends a document.  The directory is written under a temporary
name in the same place, every file is fsynced, and the directory is renamed at the end.
"""

import hashlib
import os
import platform
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.data.bpe_training import WORD_CHARS
from llmrun.data.control_tokens import SpelledTokens
from llmrun.data.documents import Corpus, ReportProgress, no_report, read_corpus
from llmrun.data.input_files import left_out_text
from llmrun.data.manifest import DatasetManifest, dtype_for, read_manifest, share_of, write_manifest
from llmrun.data.recipe import (
    DEFAULT_SHARD_TOKENS,
    DEFAULT_VAL_FRACTION,
    DEFAULT_VOCAB_SIZE,
    SOURCES_NAME,
    PrepareOptions,
    check_options,
    check_rows_exist,
    differences,
    recipe_of,
    sources_text,
)
from llmrun.data.rows import DEFAULT_READING, PROBLEMS, ReadOptions
from llmrun.data.splits import FEW_DOCUMENTS, check_share, validation_documents, write_splits
from llmrun.data.tokenizers import (
    TOKENIZER_NAME,
    ByteTokenizer,
    FileTokenizer,
    Tokenizer,
    pieces_of,
    train_bpe,
    user_tokenizer,
)
from llmrun.errors import InputError, RefusedError
from llmrun.machine import ProcessIdentity, process_start, this_process_identity
from llmrun.storage.durable import (
    DISK,
    DISK_FULL,
    TEMPORARY_PREFIX,
    Disk,
    commit_directory,
    file_system_time,
    make_directories,
    write_new,
)

HEARTBEAT_S = 60.0
STALE_AFTER_S = 24 * 3600.0
"""An unfinished dataset of another host or container is removed if it was not touched for a day."""

_PID = re.compile("[0-9]{1,9}")


@dataclass(frozen=True)
class PreparedDataset:
    """A dataset.  already: it existed before.  notes: what is unusual about it, one line each."""

    directory: Path
    manifest: DatasetManifest
    already: bool
    notes: tuple[str, ...]


def prepare(
    inputs: Sequence[Path],
    out: Path,
    tokenizer: str,
    vocab_size: int | None = None,
    val_fraction: float = DEFAULT_VAL_FRACTION,
    shard_tokens: int = DEFAULT_SHARD_TOKENS,
    eot: str | None = None,
    report: ReportProgress = no_report,
    disk: Disk = DISK,
    reading: ReadOptions = DEFAULT_READING,
) -> PreparedDataset:
    """Make the dataset directory `out` from files, directories and patterns.

    tokenizer: "byte", "bpe" (vocab_size tokens, trained on the input) or the path of a tokenizer.json.
    An existing dataset of the same recipe is left unchanged.  The same input gives the same bytes.
    Raises InputError for invalid input, or if `out` is something else; RefusedError if the disk is full or a package
    that a format needs is not installed.
    """
    options = PrepareOptions(tokenizer, vocab_size, val_fraction, shard_tokens, eot, reading)
    check_options(options)
    existing = _existing_dataset(out)
    given = user_tokenizer(Path(tokenizer), eot) if options.kind == "file" else None
    corpus = read_corpus(inputs, report, out, reading)
    check_rows_exist(corpus)
    recipe = recipe_of(corpus, options, _identity(given))
    if existing is not None:
        _refuse_other(out, existing, recipe)
        return PreparedDataset(out, existing, already=True, notes=())
    _check_share(corpus, options)
    training, spelled = _TrainingText(corpus), SpelledTokens()
    with _temporary_directory(out, disk) as directory:
        chosen = given or _own_tokenizer(training, options, report)
        if options.kind == "bpe":
            recipe["tokenizer_training"] = training.recipe()
        manifest = _write_dataset(directory, corpus, options, chosen, recipe, report, disk, spelled)
        _commit(directory, out, disk)
    notes = [*_text_notes(corpus), *_notes(corpus, options, manifest)]
    notes += [*([training.note()] if training.words_cut else []), *spelled.notes()]
    return PreparedDataset(out, manifest, already=False, notes=tuple(notes))


def _identity(given: FileTokenizer | None) -> dict[str, Any] | None:
    """The entries of the recipe for the user's tokenizer.json."""
    if given is None:
        return None
    return {"sha256": given.record.sha256, "eot_id": given.record.eot_id}


def _check_share(corpus: Corpus, options: PrepareOptions) -> None:
    """Refuse an unusable split before tokenizing anything.  Raises InputError."""
    if corpus.n_documents < FEW_DOCUMENTS:
        return
    chosen = validation_documents(corpus.positions, options.val_fraction)
    val_bytes = int(corpus.sizes[chosen].sum())
    check_share(val_bytes, corpus.n_bytes, options.val_fraction)


def _existing_dataset(out: Path) -> DatasetManifest | None:
    """The dataset at `out`; None if nothing is there.  Raises InputError for anything else."""
    if not os.path.lexists(out):
        return None
    try:
        return read_manifest(out)
    except InputError as error:
        raise InputError(
            f"--out {out} exists and is not a valid dataset",
            caused_by=[error.message],
            hints=["choose another --out, or remove it"],
        ) from error


def _refuse_other(out: Path, existing: DatasetManifest, recipe: dict[str, Any]) -> None:
    """Raises InputError if the existing dataset has another recipe."""
    changed = differences(existing.recipe, recipe)
    if changed:
        raise InputError(
            f"--out {out} exists and was made with other inputs or options",
            caused_by=changed,
            hints=["choose another --out, or remove it"],
        )


def _write_dataset(
    directory: Path,
    corpus: Corpus,
    options: PrepareOptions,
    tokenizer: Tokenizer,
    recipe: dict[str, Any],
    report: ReportProgress,
    disk: Disk,
    spelled: SpelledTokens,
) -> DatasetManifest:
    """Write every file of the dataset into `directory`."""
    spelled.names = tokenizer.control_names()
    if isinstance(tokenizer, FileTokenizer):
        write_new(directory / TOKENIZER_NAME, [tokenizer.content], disk)
    write_new(directory / SOURCES_NAME, [sources_text(corpus).encode()], disk)
    manifest = DatasetManifest(
        dtype=dtype_for(tokenizer.record.vocab_size),
        tokenizer=tokenizer.record,
        splits=write_splits(
            directory,
            corpus,
            tokenizer,
            options.val_fraction,
            options.shard_tokens,
            report,
            disk,
            spelled.see,
        ),
        recipe=recipe,
    )
    if spelled.documents:
        recipe["text"]["documents_with_control_names"] = spelled.documents
    write_manifest(directory, manifest, disk)
    return manifest


@dataclass
class _TrainingText:
    """The corpus as text to train a tokenizer on, and statistics of the words that are cut for it.

    longest: characters of the longest such word.  longest_in: the name of its document.
    """

    corpus: Corpus
    words_cut: int = 0
    longest: int = 0
    longest_in: str = ""
    _document: str = ""

    def texts(self, report: ReportProgress) -> Iterator[str]:
        """Yield the corpus in pieces."""
        done = 0
        for document in self.corpus.read():
            self._document = document.name
            yield from pieces_of(document.text)
            done += document.bytes
            report("training the tokenizer", done, self.corpus.n_bytes)

    def note_long_word(self, n_chars: int) -> None:
        """Count a word of the current document that is cut."""
        self.words_cut += 1
        if n_chars > self.longest:
            self.longest, self.longest_in = n_chars, self._document

    def recipe(self) -> dict[str, int]:
        """The entry of the recipe."""
        return {"word_chars": WORD_CHARS, "words_cut": self.words_cut, "longest_word": self.longest}

    def note(self) -> str:
        """One line for the user."""
        return (
            f"words longer than {WORD_CHARS} characters, cut only to train the tokenizer: {self.words_cut:,};"
            f" the longest has {self.longest:,} characters, in {self.longest_in}"
        )


def _own_tokenizer(training: _TrainingText, options: PrepareOptions, report: ReportProgress) -> Tokenizer:
    """The byte tokenizer, or a BPE trained on the whole corpus."""
    if options.kind == "byte":
        return ByteTokenizer()
    vocab_size = options.vocab_size or DEFAULT_VOCAB_SIZE
    return train_bpe(training.texts(report), vocab_size, report, training.note_long_word)


RULES = {
    "marks": "byte-order marks removed",
    "crlf": "documents with CRLF line ends, kept unchanged",
    "html": "documents that begin as an HTML page does, kept as text",
    "empty": "empty documents left out",
    "missing_text": "rows without a text, left out",
    "files_without_rows": "files without rows",
    "repeated_ids": "rows with the id of an earlier one, kept",
}
"""Rules for texts: the key in `Corpus.counts`, and what is said if one applied."""


def _text_notes(corpus: Corpus) -> Iterator[str]:
    """Yield which rules applied to files, rows and texts, one line each."""
    if corpus.left_out:
        reasons = left_out_text(corpus.left_out, corpus.endings)
        yield f"files left out: {sum(corpus.left_out.values()):,} ({reasons})"
    bad = {key: corpus.counts[f"bad_{key}"] for key in PROBLEMS if corpus.counts.get(f"bad_{key}")}
    if bad:
        reasons = ", ".join(
            f"{PROBLEMS[key]} {count:,}, first {corpus.first[f'bad_{key}']}" for key, count in bad.items()
        )
        yield f"bad rows skipped: {sum(bad.values()):,} of {corpus.counts['rows']:,} ({reasons})"
    for key, text in RULES.items():
        if corpus.counts.get(key):
            yield f"{text}: {corpus.counts[key]:,}"
    if corpus.n_identical:
        yield f"documents identical to an earlier one, kept: {corpus.n_identical:,}"


def _notes(corpus: Corpus, options: PrepareOptions, manifest: DatasetManifest) -> Iterator[str]:
    """Yield what is unusual about this dataset, one line each."""
    if corpus.n_documents < FEW_DOCUMENTS and options.val_fraction > 0:
        yield (
            f"fewer than {FEW_DOCUMENTS} documents ({corpus.n_documents:,}):"
            f" the validation split is the last {options.val_fraction:g} of the token stream"
        )
    asked, got = options.vocab_size or DEFAULT_VOCAB_SIZE, manifest.tokenizer.vocab_size
    if options.kind == "bpe" and got < asked:
        yield f"the text yields a vocabulary of only {got:,} tokens; --vocab-size is {asked:,}"
    share = share_of(manifest, "val")
    if abs(share - options.val_fraction) > options.val_fraction / 2 and share > 0:
        yield f"validation has {share:.2%} of the tokens; --val-fraction is {options.val_fraction:.2%}"
    if manifest.splits["val"].tokens == 0:
        yield "the validation split is empty: set `eval.every_steps: null` to train on this dataset"


@contextmanager
def _temporary_directory(out: Path, disk: Disk) -> Iterator[Path]:
    """A directory in the parent of `out`, removed at the end unless it was renamed.

    Raises InputError or RefusedError for an OSError within.
    """
    us = this_process_identity()
    directory = out.parent / f"{TEMPORARY_PREFIX}{out.name}-{_pid_space_key(us)}-{us.pid}-{us.start}"
    try:
        make_directories(out.parent, disk)
        _remove_stale(out, us, disk)
        disk.make_directory(directory)
        with _heartbeat(directory):
            yield directory
    except OSError as error:
        raise _write_error(out, error) from error
    finally:
        with suppress(OSError):  # the first error is the one to show
            if directory.is_dir():
                disk.remove_tree(directory)


def _pid_space_key(process: ProcessIdentity) -> str:
    """The host, boot and PID namespace of a process, for the name of a directory."""
    return hashlib.sha256(repr(process.space).encode()).hexdigest()[:16]


def _remove_stale(out: Path, us: ProcessIdentity, disk: Disk) -> None:
    """Remove the temporary directories of processes that have ended.

    A process is looked up only if it has our host, boot and PID namespace.  Other directories, and those of older
    versions, are removed if they were not touched for STALE_AFTER_S.
    """
    name = re.compile(re.escape(f"{TEMPORARY_PREFIX}{out.name}-") + r"([0-9a-f]{16})-(\d+)-(\d+)")
    old_name = re.compile(re.escape(f"{TEMPORARY_PREFIX}{out.name}-{platform.node()}-") + r"\d+")
    now_s: float | None = None
    for path in out.parent.iterdir():
        found = name.fullmatch(path.name)
        if found is not None and found[1] == _pid_space_key(us) and None not in us.space:
            is_gone = process_start(int(found[2])) != int(found[3])
        elif found is not None or old_name.fullmatch(path.name):
            now_s = file_system_time(out.parent) if now_s is None else now_s
            is_gone = abs(now_s - path.stat().st_mtime) > STALE_AFTER_S
        else:
            continue
        if is_gone:
            with suppress(OSError):  # another process may be removing it, too
                disk.remove_tree(path)


@contextmanager
def _heartbeat(directory: Path) -> Iterator[None]:
    """Touch a directory every HEARTBEAT_S while it is in use."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_S):
            with suppress(OSError):
                os.utime(directory)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _commit(directory: Path, out: Path, disk: Disk) -> None:
    """Rename the complete dataset to `out`.  Raises InputError if something is there by now."""
    try:
        commit_directory(directory, out, disk)
    except FileExistsError as error:
        raise InputError(
            f"--out {out} was created by another process meanwhile", hints=["choose another --out"]
        ) from error


def _write_error(out: Path, error: OSError) -> InputError | RefusedError:
    """The error for a file that could not be written."""
    if error.errno in DISK_FULL:
        return RefusedError(
            f"cannot write the dataset {out}: the disk is full",
            hints=["free some space, or choose an --out on another disk"],
        )
    return InputError(f"cannot write the dataset {out}: {error.strerror}")
