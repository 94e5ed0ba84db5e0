"""Rows of the formats that hold many documents in a file, and how they are read (docs/data-format.md, Rows)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

OnBadRow = Literal["fail", "skip"]
DEFAULT_TEXT_FIELD = "text"
DEFAULT_MAX_DOCUMENT = 2**30
"""Bytes of UTF-8 of the longest document that is taken."""

Problem = Literal["not_json", "not_object", "wrong_type", "not_text", "no_id", "too_long"]
PROBLEMS: Mapping[Problem, str] = {
    "not_json": "not JSON",
    "not_object": "no object",
    "wrong_type": "text of another type",
    "not_text": "not text",
    "no_id": "no id",
    "too_long": "too long",
}
"""What can be wrong with a row: the key in the recipe, and the text on the screen."""


@dataclass(frozen=True)
class ReadOptions:
    """How documents are read.

    text_field, id_field: name of the field of a row; `a.b` is the field b of the field a, unless there is a field of
                          the name `a.b`.  id_field: None if rows have no id.
    max_document:         bytes of the longest document; a longer one is a bad row, or a file that is refused.
    """

    text_field: str = DEFAULT_TEXT_FIELD
    id_field: str | None = None
    on_bad_row: OnBadRow = "fail"
    max_document: int = DEFAULT_MAX_DOCUMENT


DEFAULT_READING = ReadOptions()


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    number: from 1; of JSON lines, the number of the line.
    text:   not checked yet; None if the field is missing or null.
    id:     as text; None if no id was asked for.
    fields: the names of the row's fields, only if the text is missing.
    """

    number: int
    text: bytes | None
    id: str | None = None
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used.  message: a predicate, such as `is not JSON: …`."""

    number: int
    problem: Problem
    message: str


class UnusableFileError(Exception):
    """A file that cannot be read to its end.  The text is a predicate, such as `is truncated`."""


class MissingFieldError(UnusableFileError):
    """A file none of whose rows has the field that was asked for."""
