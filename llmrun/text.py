"""How names, commands, counts, sizes and durations are written.

Printed commands can be pasted into a shell.
"""

import math
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

_NEEDS_ANSI_QUOTES = re.compile(r"[^\x20-\x7e]")
_ESCAPES = {"\\": r"\\", "'": r"\'", "\n": r"\n", "\t": r"\t", "\r": r"\r"}


def printable(text: str | Path) -> str:
    r"""A name as one line of UTF-8: bytes that are not UTF-8 and characters that do not print as escapes (`\xff`)."""
    encoded = str(text).encode("utf-8", "surrogateescape")
    decoded = encoded.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in decoded)


def quoted(word: str | Path) -> str:
    r"""One word of a command line, so that a shell reads it as it is.

    Names with bytes that are not UTF-8, or with characters that do not print, are written `$'…\xff…'`, which bash,
    zsh and ksh read.
    """
    text = str(word)
    if not _NEEDS_ANSI_QUOTES.search(text) or (text.isprintable() and is_utf8(text)):
        return shlex.quote(text)
    return f"$'{''.join(_escaped(char) for char in text)}'"


def _escaped(char: str) -> str:
    """One character inside `$'…'`."""
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable() and is_utf8(char):
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def command(*words: str | Path) -> str:
    """A command line to paste: `llmrun resume 'my runs/a'`.

    A Path that begins with a dash gets `./` in front: as it is it would be read as an option.
    """
    return " ".join(quoted(_no_option(word)) for word in words)


def _no_option(word: str | Path) -> str:
    text = str(word)
    return f".{os.sep}{text}" if isinstance(word, Path) and text.startswith("-") else text


def is_utf8(text: str) -> bool:
    """Whether a name or an argument was UTF-8: Python stands in for every other byte with half a surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def format_bytes(n_bytes: int) -> str:
    """Bytes with a decimal prefix and three digits: `512 B`, `1.50 GB` (1 GB is 10^9 bytes)."""
    size, unit = float(n_bytes), 0
    while abs(size) >= 999.5 and unit < len(_BYTE_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    if unit == 0:
        return f"{n_bytes} B"
    decimals = 2 if abs(size) < 9.995 else 1 if abs(size) < 99.95 else 0
    return f"{size:,.{decimals}f} {_BYTE_UNITS[unit]}"


def format_duration(seconds: float) -> str:
    """A duration, rounded up, in its two largest units: `3 min 20 s`, `2 h 05 min`, `4 d 03 h`."""
    whole = max(0, math.ceil(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02d} h"


def counted(count: int, noun: str) -> str:
    """`1 step`, `2,000 steps`; regular plurals only."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def cut(items: Sequence[str], most: int, what: str = "more") -> list[str]:
    """The first `most` items, and `and 3 more` in the place of the others."""
    left = len(items) - most
    return [*items[:most], f"and {left:,} {what}"] if left > 0 else list(items)


def listed(items: Sequence[str], most: int, what: str = "more") -> str:
    """`a, b`; beyond `most` items `a, b and 3 more`."""
    left = len(items) - most
    return ", ".join(items[:most]) + (f" and {left:,} {what}" if left > 0 else "")
