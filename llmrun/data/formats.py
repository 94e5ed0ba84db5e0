"""The formats of input files, told by the ends of their names (docs/data-format.md, Input files)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "markdown", "JSON lines", "Parquet", "Arrow"]
Compression = Literal["gzip", "zstandard"]


@dataclass(frozen=True)
class Format:
    """One format.  name: as the recipe records it.  compression: None if the bytes stand as they are."""

    name: str
    kind: Kind
    compression: Compression | None = None

    @property
    def has_rows(self) -> bool:
        """Whether a file holds many documents, one a row; a file without rows is one document."""
        return self.kind not in ("text", "markdown")


_JSON_LINES = Format("jsonl", "JSON lines")
_JSON_LINES_GZIP = Format("jsonl.gz", "JSON lines", "gzip")
_JSON_LINES_ZSTANDARD = Format("jsonl.zst", "JSON lines", "zstandard")

SUFFIXES: Mapping[str, Format] = {
    ".txt": Format("txt", "text"),
    ".md": Format("md", "markdown"),
    ".jsonl": _JSON_LINES,
    ".ndjson": _JSON_LINES,
    ".jsonl.gz": _JSON_LINES_GZIP,
    ".json.gz": _JSON_LINES_GZIP,
    ".jsonl.zst": _JSON_LINES_ZSTANDARD,
    ".json.zst": _JSON_LINES_ZSTANDARD,
    ".parquet": Format("parquet", "Parquet"),
    ".arrow": Format("arrow", "Arrow"),
}
"""Compressed `.json` is JSON lines in the corpora that use the name (C4, Dolma); plain `.json` is not taken."""

NAMED = ".txt, .md, .jsonl (also .gz, .zst), .parquet or .arrow"


def format_of(name: str) -> Format | None:
    """The format that the end of a name states, ignoring case; None for any other name."""
    lower = name.lower()
    for suffix, found in SUFFIXES.items():
        if lower.endswith(suffix):
            return found
    return None
