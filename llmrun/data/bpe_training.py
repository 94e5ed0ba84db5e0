"""Trains a BPE in a process of its own, on words of bounded length.

Training with the library takes quadratic time in the length of a word.  Therefore words, as its pre-tokenizer finds
them, are cut every WORD_CHARS characters for training.  Encoding takes about linear time and cuts nothing.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

from llmrun.data.bpe_worker import FRAME
from llmrun.data.documents import ReportProgress, no_report
from llmrun.errors import RunFailedError

WORD_CHARS = 256
SLICE_CHARS = 512 * 1024
"""Text is divided after this many characters in any case, which bounds memory."""

WORKER = "llmrun.data.bpe_worker"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Words as the byte-level pre-tokenizer (GPT-2) finds them."""

_LONG_SPACE = re.compile(rf"\s{{{WORD_CHARS + 1}}}")
_SPACE_TO_PYTHON_ALONE = re.compile("[\x1c-\x1f]")


def cut_long_words(text: str, on_long_word: Callable[[int], None]) -> Iterator[str]:
    """Divide `text` into pieces whose words have at most WORD_CHARS characters.

    on_long_word: called with the length in characters of each word that is cut.
    """
    for start in range(0, max(len(text), 1), SLICE_CHARS):
        piece = text[start : start + SLICE_CHARS]
        if not _may_have_long_words(piece):
            yield piece
            continue
        yield from _cut_piece(piece, on_long_word)


def _cut_piece(piece: str, on_long_word: Callable[[int], None]) -> Iterator[str]:
    """Divide a piece before, within and after its long words.

    White space before a long word becomes a piece of its own: at the end of a piece it would join the word before it.
    """
    begun, before = 0, 0
    for word, (begin, end) in _word_finder().pre_tokenize_str(piece):
        if len(word) > WORD_CHARS:
            on_long_word(len(word))
            cut = before if piece[before:begin].isspace() else begin
            yield from (part for part in (piece[begun:cut], piece[cut:begin]) if part)
            yield from (piece[i : min(i + WORD_CHARS, end)] for i in range(begin, end, WORD_CHARS))
            begun = end
        before = end if len(word) > WORD_CHARS else begin
    if begun < len(piece):
        yield piece[begun:]


def _may_have_long_words(text: str) -> bool:
    """False only if no word is too long; fast for ordinary text."""
    longest = max(map(len, text.split()), default=0)
    return bool(longest >= WORD_CHARS or _LONG_SPACE.search(text) or _SPACE_TO_PYTHON_ALONE.search(text))


@cache
def _word_finder() -> Any:
    """The `tokenizers` pre-tokenizer that finds words."""
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(_WORDS), "isolated")


def train_in_process(pieces: Iterable[str], vocab_size: int, report: ReportProgress = no_report) -> bytes:
    """Train a BPE on `pieces`, and report merges.  Returns the tokenizer.json.

    KeyboardInterrupt, or any other exception, ends the training process.
    Raises RunFailedError if the training process is killed, for example because memory ran out.
    """
    result = os.memfd_create("llmrun-tokenizer")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", WORKER, str(vocab_size), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=result,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C at a terminal must reach only this process
    )
    try:
        with suppress(BrokenPipeError):  # the process has ended; its exit code says why
            _feed(process, pieces)
        other_lines = _follow(process, vocab_size, report)
        code = process.wait()
        if code < 0:
            raise RunFailedError(
                f"cannot train the tokenizer: its process was ended by signal {-code}",
                hints=["if memory ran out, train on less text: `--tokenizer FILE` takes a tokenizer.json"],
            )
        if code > 0:
            raise RuntimeError(f"training the tokenizer failed: {other_lines[-1:]}")
        os.lseek(result, 0, os.SEEK_SET)
        with os.fdopen(os.dup(result), "rb") as file:
            return file.read()
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stderr):
            with suppress(OSError):
                if stream is not None:
                    stream.close()
        os.close(result)


def _feed(process: "subprocess.Popen[bytes]", pieces: Iterable[str]) -> None:
    assert process.stdin is not None
    for piece in pieces:
        content = piece.encode()
        process.stdin.write(FRAME.pack(len(content)))
        process.stdin.write(content)
    process.stdin.close()


def _follow(process: "subprocess.Popen[bytes]", vocab_size: int, report: ReportProgress) -> list[str]:
    """Report the progress of merging until the process ends.  Returns its other lines."""
    assert process.stderr is not None
    others: list[str] = []
    for line in process.stderr:
        text = line.decode(errors="replace").strip()
        if not text.startswith('{"stage"'):
            others.append(text)
            continue
        with suppress(ValueError, KeyError):
            progress = json.loads(text)
            if progress["stage"] == "Compute merges":
                report("training the tokenizer:", progress["current"], vocab_size, "merges")
    return others
