"""What is text: UTF-8 without NUL that is no other format.  One rule for whole files and for rows (docs/data-format.md)."""

from collections.abc import Mapping
from dataclasses import dataclass

from llmrun.data.formats import Format

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_OTHER_ENCODINGS: Mapping[bytes, str] = {
    b"\xff\xfe\0\0": "UTF-32LE",
    b"\0\0\xfe\xff": "UTF-32BE",
    b"\xff\xfe": "UTF-16LE",
    b"\xfe\xff": "UTF-16BE",
}
"""Byte-order marks of other encodings, longer ones first."""

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
"""First bytes of known binary formats.  Only for the error message; the test for text is UTF-8 without NUL."""

_WRITTEN_IN_ASCII: Mapping[bytes, str] = {b"%PDF-": "a PDF document", b"{\\rtf": "an RTF document"}
"""Formats that can be valid UTF-8 and still are not text."""

_TAR_AT, _TAR = 257, b"ustar"


@dataclass(frozen=True)
class NotText:
    """Why a content is not text.  encoding: the argument of `iconv -f` that would convert it, if any."""

    reason: str
    encoding: str | None = None


def without_mark(content: bytes) -> bytes:
    """The content without a leading byte-order mark of UTF-8."""
    return content.removeprefix(BYTE_ORDER_MARK)


def why_not_text(content: bytes) -> NotText | None:
    """None for text, which is UTF-8 without NUL and not a format such as PDF."""
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
    """The first byte that is not allowed in text."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        byte = f"byte 0x{content[error.start]:02x} at offset {error.start:,}"
        return NotText(f"is not UTF-8: {byte}", "ISO-8859-1")
    at = content.find(b"\0")
    return None if at < 0 else NotText(f"is not text: NUL at offset {at:,}")


def _named(content: bytes) -> NotText | None:
    """The format of a binary file, if its first bytes show it."""
    if content[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        return NotText("is a tar archive, not text")
    for beginning, kind in _BINARY.items():
        if content.startswith(beginning):
            return NotText(f"is {kind}, not text")
    return None


def _encoding_without_mark(content: bytes) -> str | None:
    """The encoding whose ASCII characters have NUL bytes at the places where `content` has them."""
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


LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_HTML = (b"<!doctype html", b"<html")
_FIRST_BYTES: Mapping[str, tuple[bytes, ...]] = {
    "gzip": (b"\x1f\x8b",),
    "zstandard": (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + low, 0x2A, 0x4D, 0x18]) for low in range(16))),
    "Parquet": (b"PAR1",),
    "Arrow": (b"ARROW1", b"\xff\xff\xff\xff"),
}
"""How files begin; zstandard also with a skippable frame, Arrow streams with the mark of a message."""


@dataclass(frozen=True)
class OtherFormat:
    """What a file is instead of the format that its name states.  message: a predicate."""

    message: str
    hint: str


def looks_like_html(beginning: bytes) -> bool:
    """Whether a content begins as an HTML page does."""
    return without_mark(beginning[:64]).lstrip().lower().startswith(_HTML)


def not_this_format(beginning: bytes, found: Format) -> OtherFormat | None:
    """What a file is, by its first bytes, if it is not of the format `found`; None if it may be.

    Only a text file may begin as an HTML page: that is text, too.
    """
    if beginning.startswith(LFS_POINTER):
        return OtherFormat(
            "is a pointer of Git LFS, not the file itself", "fetch the files with `git lfs pull`"
        )
    if not found.has_rows:
        return None
    again = "copy or download the file again"
    if looks_like_html(beginning):
        return OtherFormat(
            f"is an HTML page, not {found.name}: probably the answer to a failed download", again
        )
    if not beginning and found.name != "jsonl":
        return OtherFormat(f"is empty, which {found.name} never is", again)
    expected = _FIRST_BYTES.get(found.compression or found.kind)
    if expected is not None and not beginning.startswith(expected):
        wrong = _named(beginning)
        what = wrong.reason.removesuffix(", not text") if wrong else "does not begin as such a file does"
        return OtherFormat(f"is not {found.name}: it {what}", again)
    if expected is None:
        named = _named(beginning)
        if named is not None:
            return OtherFormat(f"{named.reason.removesuffix(', not text')}, not {found.name}", again)
    return None
