"""The rules for input files: which names are documents, and which contents are text (docs/data-format.md)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

SUFFIX = ".txt"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

LEFT_OUT = {
    "hidden": "hidden names",
    "leftovers": "leftovers of editors and desktops",
    "other_endings": "other endings",
    "directory_links": "links to directories",
    "broken_links": "links without a target",
    "special_files": "pipes, sockets and devices",
    "duplicates": "files that came before",
}
"""Why a name in a directory is left out: the key in the recipe, and the words on the screen."""

_LEFTOVER = re.compile(
    r".*~|~\$.*|#.*#|.*\.sw[a-p]|thumbs\.db|desktop\.ini"
    r"|__macosx|@eadir|\$recycle\.bin|system volume information|lost\+found",
    re.IGNORECASE | re.DOTALL,
)

_OTHER_ENCODINGS: Mapping[bytes, str] = {
    b"\xff\xfe\0\0": "UTF-32LE",
    b"\0\0\xfe\xff": "UTF-32BE",
    b"\xff\xfe": "UTF-16LE",
    b"\xfe\xff": "UTF-16BE",
}
"""Byte-order marks of other encodings; the longer ones come first."""

_BINARY: Mapping[bytes, str] = {
    b"\x1f\x8b": "gzip data",
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "a zip archive",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ\0": "xz data",
    b"\x28\xb5\x2f\xfd": "zstandard data",
    b"\x04\x22\x4d\x18": "lz4 data",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"RIFF": "RIFF data (WebP, WAV or AVI)",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"Obj\x01": "an Avro file",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"GGUF": "a GGUF file",
    b"\x7fELF": "a program",
    b"SQLite format 3\0": "an SQLite database",
    b"\xd0\xcf\x11\xe0": "an old Office document",
}
"""What a file that is not text begins with.  Only a name for the error: being UTF-8 without NUL decides."""

_WRITTEN_IN_ASCII: Mapping[bytes, str] = {b"%PDF-": "a PDF document", b"{\\rtf": "an RTF document"}
"""Formats that can be valid UTF-8 and are still not text."""

_TAR_AT, _TAR = 257, b"ustar"


@dataclass(frozen=True)
class NotText:
    """Why a content is not text.  encoding: what `iconv -f` should be given, if that would help."""

    reason: str
    encoding: str | None = None


def leftover_kind(name: str) -> str | None:
    """Why a name in a directory is never a document, as a key of LEFT_OUT; None if it may be one.

    A rule for names that are found, not for those that the user gives.
    """
    if name.startswith("."):
        return "hidden"
    return "leftovers" if _LEFTOVER.fullmatch(name) else None


def has_suffix(name: str) -> bool:
    """Whether a name ends in `.txt`, in any case."""
    return name.lower().endswith(SUFFIX)


def without_mark(content: bytes) -> bytes:
    """The content without the byte-order mark of UTF-8 that may begin it."""
    return content.removeprefix(BYTE_ORDER_MARK)


def why_not_text(content: bytes) -> NotText | None:
    """None for text: UTF-8 without NUL that is not of a format written in ASCII."""
    for mark, encoding in _OTHER_ENCODINGS.items():
        if content.startswith(mark):
            return NotText(f"is {encoding}, not UTF-8", encoding[:6])
    for beginning, kind in _WRITTEN_IN_ASCII.items():
        if content.startswith(beginning):
            return NotText(f"is {kind}, not text")
    wrong = _first_wrong_byte(content)
    if wrong is None:
        return None
    unmarked = _encoding_without_mark(content)
    if unmarked is not None:
        return NotText(f"is not UTF-8 but probably {unmarked} without a byte-order mark", unmarked)
    return _named(content) or wrong


def _first_wrong_byte(content: bytes) -> NotText | None:
    """The first byte that text does not have."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        byte = f"byte 0x{content[error.start]:02x} at offset {error.start:,}"
        return NotText(f"is not UTF-8: {byte}", "ISO-8859-1")
    at = content.find(b"\0")
    return None if at < 0 else NotText(f"is not text: NUL at offset {at:,}")


def _named(content: bytes) -> NotText | None:
    """What a binary file is, if its beginning shows it."""
    if content[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        return NotText("is a tar archive, not text")
    for beginning, kind in _BINARY.items():
        if content.startswith(beginning):
            return NotText(f"is {kind}, not text")
    return None


def _encoding_without_mark(content: bytes) -> str | None:
    """The encoding whose ASCII characters would put the NULs where they are."""
    sample = content[:4096]
    sample = sample[: len(sample) // 4 * 4]
    if not sample:
        return None
    share = [sample[i::4].count(0) / len(sample[i::4]) for i in range(4)]
    patterns = {
        "UTF-32LE": (0, 1, 1, 1),
        "UTF-32BE": (1, 1, 1, 0),
        "UTF-16LE": (0, 1, 0, 1),
        "UTF-16BE": (1, 0, 1, 0),
    }
    for encoding, pattern in patterns.items():
        if all((part > 0.5) == bool(expected) for part, expected in zip(share, pattern, strict=True)):
            return encoding
    return None
