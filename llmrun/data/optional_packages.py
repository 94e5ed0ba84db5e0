"""Packages that only some formats need, imported when a file of such a format is read."""

from importlib import import_module
from typing import Any

from llmrun.errors import Hint, RefusedError


def optional_package(name: str, requirement: str, purpose: str) -> Any:
    """Import the module `name`.  Raises RefusedError with the pip line for `requirement` if that fails."""
    try:
        return import_module(name)
    except ImportError as error:
        raise RefusedError(
            f"cannot import {name}, which {purpose} needs: {error}",
            hints=[Hint.command(f"`pip install '{requirement}'`")],
        ) from error
