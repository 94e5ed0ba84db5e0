"""Strict reading of `dataset.json`: every field has a type and bounds, and an error names the field."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.data.regular_file import read_regular_file
from llmrun.errors import InputError

FORMAT = "llmrun-dataset/1"
MANIFEST_NAME = "dataset.json"
LARGEST_INTEGER = 2**63 - 1

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Fields:
    """One JSON object of a manifest.  key: its dotted place, "" for the whole."""

    path: Path
    key: str
    values: Mapping[str, Any]

    def wrong(self, name: str, says: str) -> InputError:
        """The error for one field."""
        key = f"{self.key}.{name}" if self.key else name
        return InputError(f"{key} {says}", where=str(self.path))

    def value(self, name: str) -> Any:
        """A field that must be there."""
        if name not in self.values:
            raise self.wrong(name, "is missing")
        return self.values[name]

    def only(self, *names: str) -> None:
        """Refuse fields of other names."""
        for name in self.values:
            if name not in names:
                raise self.wrong(name, f"is unknown; known are {', '.join(names)}")

    def integer(self, name: str, least: int = 0, most: int = LARGEST_INTEGER) -> int:
        """A whole number within bounds."""
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(name, f"must be a whole number, not {_shown(value)}")
        if not least <= value <= most:
            raise self.wrong(name, f"must lie in {least:,} … {most:,}, not {value:,}")
        return value

    def equal(self, name: str, expected: int, meaning: str) -> int:
        """A whole number that another field fixes."""
        value = self.integer(name)
        if value != expected:
            raise self.wrong(name, f"is {value:,}, but {meaning} are {expected:,}")
        return value

    def text(self, name: str) -> str:
        """A string."""
        value = self.value(name)
        if not isinstance(value, str):
            raise self.wrong(name, f"must be text, not {_shown(value)}")
        return value

    def one_of(self, name: str, allowed: tuple[str, ...]) -> str:
        """A string out of a few."""
        value = self.text(name)
        if value not in allowed:
            raise self.wrong(name, f"must be one of {', '.join(allowed)}, not {_shown(value)}")
        return value

    def sha256(self, name: str) -> str:
        """A sha256 in lower-case hex."""
        value = self.text(name)
        if not _SHA256.fullmatch(value):
            raise self.wrong(name, f"must be 64 lower-case hex digits, not {_shown(value)}")
        return value

    def file_name(self, name: str) -> str:
        """The name of a file in the dataset's own directory: no way out of it."""
        value = self.text(name)
        if not _FILE_NAME.fullmatch(value):
            raise self.wrong(name, f"must be a plain file name, not {_shown(value)}")
        return value

    def object(self, name: str) -> "Fields":
        """A nested object."""
        value = self.value(name)
        if not isinstance(value, dict):
            raise self.wrong(name, f"must be an object, not {_shown(value)}")
        return Fields(self.path, f"{self.key}.{name}" if self.key else name, value)

    def objects(self, name: str) -> list["Fields"]:
        """A list of objects."""
        value = self.value(name)
        if not isinstance(value, list):
            raise self.wrong(name, f"must be a list, not {_shown(value)}")
        holder = Fields(self.path, self.key, {f"{name}[{i}]": item for i, item in enumerate(value)})
        return [holder.object(item) for item in holder.values]


def _shown(value: Any) -> str:
    """A value of the file, cut short for a message."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f"{text[:57]}…"


def load_object(directory: Path) -> Fields:
    """`dataset.json` of a directory as an object of the right format.  Raises InputError."""
    path = directory / MANIFEST_NAME
    root = Fields(path, "", _parse(path, _read(directory, path)))
    found = root.value("format")
    if found != FORMAT:
        raise InputError(
            f"dataset.json has the format {_shown(found)}; this llmrun reads {_shown(FORMAT)}",
            where=str(path),
        )
    return Fields(path, "", root.values)


def _read(directory: Path, path: Path) -> bytes:
    """The bytes of the file, or an error that says what is there instead."""
    make = "make a dataset with `llmrun data prepare INPUT… --out DIR --tokenizer bpe`"
    try:
        return read_regular_file(path)
    except FileNotFoundError as error:
        if directory.is_dir():
            says = f"{directory} is not a dataset: it has no dataset.json"
        else:
            says = f"there is no dataset directory {directory}"
        raise InputError(says, hints=[make]) from error
    except NotADirectoryError as error:
        raise InputError(f"{directory} is a file, not a dataset directory", hints=[make]) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    """A JSON object without repeated names, NaN or infinities."""
    try:
        value = json.loads(
            content.decode(),
            object_pairs_hook=_without_repeats,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except UnicodeDecodeError as error:
        raise InputError(f"dataset.json is not UTF-8 at byte {error.start:,}", where=str(path)) from error
    except json.JSONDecodeError as error:
        raise InputError(f"dataset.json is not JSON: {error.msg}", where=f"{path}:{error.lineno}") from error
    except RecursionError as error:
        raise InputError("dataset.json is nested too deeply", where=str(path)) from error
    except ValueError as error:
        raise InputError(f"dataset.json is not sound JSON: {error}", where=str(path)) from error
    if not isinstance(value, dict):
        raise InputError("dataset.json must hold one JSON object", where=str(path))
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names all differ."""
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {_shown(repeated)} comes twice")
    return values


def _finite(text: str) -> float:
    """A number that a float can hold."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number")
