"""Locates a dataset's directory among the places where it may be."""

from collections.abc import Sequence
from pathlib import Path

from llmrun.errors import InputError, Place


def locate_dataset(
    places: Sequence[Path], message: str, *, where: Place | None = None, hints: Sequence[str] = ()
) -> Path:
    """The first of `places` that is a directory, absolute and without links.

    message, where, hints: of the InputError that is raised if there is none; it lists the places if they are several.
    """
    found = next((place for place in places if place.is_dir()), None)
    if found is not None:
        return found.resolve()
    distinct = list(dict.fromkeys(places))
    causes = [f"there is no {place}" for place in distinct] if len(distinct) > 1 else []
    raise InputError(message, where=where, caused_by=causes, hints=hints)
