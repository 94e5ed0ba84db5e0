"""The languages of a plan.  Texts are English templates in the code; `locale/zh.po` has their translations."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal, Protocol
from unicodedata import east_asian_width

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")


class Translate(Protocol):
    """Fills values into a template, in one language."""

    def __call__(self, template: str, /, **values: Any) -> str: ...  # noqa: D102


def english(template: str, /, **values: Any) -> str:
    """The template itself with its values."""
    return template.format(**values)


def chinese(template: str, /, **values: Any) -> str:
    """The Chinese translation with the same values; English if there is none."""
    return catalogue("zh").get(template, template).format(**values)


def translator(language: Language) -> Translate:
    """The function that fills templates in a language."""
    return {"en": english, "zh": chinese}[language]


@cache
def catalogue(language: str) -> dict[str, str]:
    """The translations of a language by English template, from its gettext catalogue."""
    path = files("llmrun.plan").joinpath("locale", f"{language}.po")
    return read_po(path.read_text(encoding="utf-8"))


def read_po(text: str) -> dict[str, str]:
    """The entries of a gettext .po file, without its header.  Contexts and plurals are not supported.

    Read directly, so that no compiled copy of the file can be out of date.
    """
    found = {}
    for entry in text.split("\n\n"):
        parts = {"msgid": "", "msgstr": ""}
        keyword = ""
        for line in entry.splitlines():
            if line.startswith(("msgid ", "msgstr ")):
                keyword, _, line = line.partition(" ")  # noqa: PLW2901
            if line.startswith('"'):
                parts[keyword] += json.loads(line)
        if parts["msgid"]:
            found[parts["msgid"]] = parts["msgstr"]
    return found


def language_of(environment: Mapping[str, str]) -> Language:
    """The language of the locale: the first of LC_ALL, LC_MESSAGES and LANG that is set decides."""
    named = next(
        (environment[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environment.get(name)), ""
    )
    return "zh" if named.lower().startswith("zh") else "en"


def width(text: str) -> int:
    """Columns on a terminal; a Chinese character takes two."""
    return len(text) if text.isascii() else sum(2 if east_asian_width(c) in "WF" else 1 for c in text)


def padded(text: str, columns: int) -> str:
    """`text` with trailing spaces up to a width."""
    return text + " " * (columns - width(text))


def wrapped(text: str, columns: int) -> list[str]:
    """`text` in lines of at most `columns` columns, as far as it has places to break."""
    if width(text) <= columns:
        return [text]
    lines = [""]
    for word in _pieces(text):
        if lines[-1] and width(lines[-1] + word.rstrip()) > columns:
            lines[-1] = lines[-1].rstrip()
            lines.append("")
        lines[-1] += word if lines[-1] else word.lstrip()
    return [line.rstrip() for line in lines]


def _pieces(text: str) -> list[str]:
    """A text cut where a line may end: after a space, and after a Chinese character unless punctuation follows."""
    pieces = [""]
    for here, after in zip(text, [*text[1:], " "], strict=True):
        pieces[-1] += here
        wide = east_asian_width(here) in "WF"
        if here == " " or (wide and after not in "，。；：、）)"):
            pieces.append("")
    return [piece for piece in pieces if piece]
