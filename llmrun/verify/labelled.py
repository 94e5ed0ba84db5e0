"""Lines under a label: how all screens of `verify` are set."""

from collections.abc import Iterable

LABEL_WIDTH = 13


def labelled(label: str, texts: Iterable[str]) -> list[str]:
    """One line for each text, the label before the first; none for no text."""
    return [f"{'' if index else label:<{LABEL_WIDTH}}{text}".rstrip() for index, text in enumerate(texts)]
