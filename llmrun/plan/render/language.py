"""The words of a plan in English or Chinese.

Every text is an English template; the Chinese one of it stands in `chinese.py`.  A template without one is a bug
that a test finds, never a line in the wrong language.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol
from unicodedata import east_asian_width

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")


class Translate(Protocol):
    """Puts values into a template, in one language."""

    def __call__(self, template: str, /, **values: Any) -> str: ...  # noqa: D102


class Said(NamedTuple):
    """A text that is put into words later; as `str` it is English."""

    template: str
    values: Mapping[str, Any]

    def __str__(self) -> str:
        return english(self.template, **self.values)

    def by(self, translate: Translate) -> str:
        """The text in the language of `say`."""
        return translate(self.template, **self.values)


def english(template: str, /, **values: Any) -> str:
    """The template itself."""
    return template.format(**values)


def chinese(template: str, /, **values: Any) -> str:
    """The Chinese template."""
    from llmrun.plan.render.chinese import CHINESE

    return CHINESE[template].format(**values)


def translator(language: Language) -> Translate:
    """The words of a language."""
    return {"en": english, "zh": chinese}[language]


def language_of(environment: Mapping[str, str]) -> Language:
    """The language of the locale: Chinese where the first of LC_ALL, LC_MESSAGES and LANG that is set says zh."""
    named = next(
        (environment[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environment.get(name)), ""
    )
    return "zh" if named.lower().startswith("zh") else "en"


def width(text: str) -> int:
    """Columns that a terminal needs: two for a Chinese character."""
    return len(text) if text.isascii() else sum(2 if east_asian_width(c) in "WF" else 1 for c in text)


def padded(text: str, columns: int) -> str:
    """`text` with spaces behind it, up to a number of columns."""
    return text + " " * (columns - width(text))


def wrapped(text: str, columns: int) -> list[str]:
    """`text` in lines of at most `columns` columns where it has places to break."""
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
    """A text cut where a line may end: behind a space, and behind a Chinese character before another letter."""
    pieces = [""]
    for here, after in zip(text, [*text[1:], " "], strict=True):
        pieces[-1] += here
        wide = east_asian_width(here) in "WF"
        if here == " " or (wide and after not in "，。；：、）)"):
            pieces.append("")
    return [piece for piece in pieces if piece]
