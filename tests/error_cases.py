"""Cases of wrong input with what their errors must carry: kind, place, hints and facts, whatever the wording.

A file of cases has blocks: `=== title`, what is given, `~~~~`, the expectation.  An expectation has lines

    exit 2                         the exit code
    error config                   the kind of the error, nothing if there is none
    where file=bad.yaml line=1     its place; of a config one line per problem, with its key
    hints advice setting           the kinds of its hints, in order
    facts --until 17               numbers, names, options and keys that the text must hold
    warnings 1                     how many warnings stand on stderr
    noted 3                        the facts of the other lines on stderr
    stdout a.bin 17                the facts of standard output

and, for one case per command, `----` and the whole screen.  `WRITE=1 pytest …` writes the expectations of the cases
that it runs; read the difference before you commit it.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCREEN_LINES_MAX, LINE_LENGTH_MAX = 45, 600
FOREIGN = ("pydantic", "http", "validation error", "input should", "traceback", "errno", "a bug in llmrun")
"""Words of libraries and of bugs, which no user may see."""

PLAIN = frozenset({"llmrun", "train", "the", "and", "for", "not", "data", "config", "list", "show", "check"})
"""Words of a command line that are also words of a sentence."""

_MARKS = "`'\"()[]{},;:!?…"


@dataclass(frozen=True)
class Case:
    """One case.  given: the lines between title and expectation.  screen: the whole screen; empty if not held."""

    title: str
    given: str
    expected: tuple[str, ...]
    screen: str


def read_cases(path: Path) -> list[Case]:
    """The cases of a file."""
    cases = []
    for block in path.read_text(encoding="utf-8").split("\n=== ")[1:]:
        title, _, rest = block.partition("\n")
        given, _, expectation = rest.partition("~~~~\n")
        expected, _, screen = expectation.partition("----\n")
        cases.append(Case(title, given, tuple(expected.strip().splitlines()), screen.strip()))
    return cases


def facts(text: str, given: str = "") -> list[str]:
    """The words of a text that are no wording; what differs by machine aside.

    These are options, keys, paths, numbers, and what the user wrote in `given`.
    """
    own = {word for word in re.split(r"[\s=:,{}\[\]'\"]+", given) if len(word) > 2} - PLAIN
    words = (word.strip(_MARKS).rstrip(".").strip(_MARKS) for word in text.split())
    return list(dict.fromkeys(word for word in words if _is_fact(word) or word in own))


def _is_fact(word: str) -> bool:
    has_sign = word.startswith("--") or re.search(r"\d|[^\W\d]_[^\W\d]|\w[./=]\w", word) is not None
    return has_sign and "<" not in word and ">" not in word


def lines_of_error(error: dict[str, Any], given: str, steady: Callable[[str], str] = str) -> list[str]:
    """What an error carries, from its JSON.

    given: what the user wrote.  steady: takes out what differs from machine to machine.
    """
    problems = error.get("problems", [])
    places = [_place(problem["where"], problem["key"]) for problem in problems] or [_place(error["where"])]
    hints = error["hints"] or [problem["hint"] for problem in problems if problem["hint"] is not None]
    texts = [error["message"], *(problem["message"] for problem in problems), *error["caused_by"]]
    found = facts(steady("\n".join([*texts, *(hint["text"] for hint in hints)])), given)
    return [
        f"error {error['kind']}",
        *(f"where {steady(place)}" for place in places if place),
        *([f"hints {' '.join(hint['kind'] for hint in hints)}"] if hints else []),
        *([f"facts {' '.join(found)}"] if found else []),
    ]


def _place(where: dict[str, Any] | None, key: str | None = None) -> str:
    """A place as `file=bad.yaml line=1 key=batch.D`."""
    fields = {name: value for name, value in (where or {}).items() if value is not None}
    fields |= {} if key is None else {"key": key}
    return " ".join(f"{name}={value}" for name, value in fields.items())


def assert_carries(actual: Sequence[str], expected: Sequence[str]) -> None:
    """Asserts that all is as expected; texts may hold more facts than they must."""
    loose = ("facts", "noted", "stdout")
    assert [line for line in actual if not line.startswith(loose)] == [
        line for line in expected if not line.startswith(loose)
    ]
    for name in loose:
        missing = set(_words(expected, name)) - set(_words(actual, name))
        assert not missing, f"{name}: {sorted(missing)} missing in {_words(actual, name)}"


def _words(lines: Sequence[str], name: str) -> list[str]:
    return [word for line in lines if line.startswith(f"{name} ") for word in line.split()[1:]]


def assert_readable(screen: str) -> None:
    """Asserts that a screen is short, and in our own words."""
    lines = screen.splitlines()
    assert len(lines) <= SCREEN_LINES_MAX, screen
    assert [line for line in lines if len(line) > LINE_LENGTH_MAX] == []
    assert [word for word in FOREIGN if word in screen.lower()] == []


def is_writing() -> bool:
    """Whether expectations are written and not compared."""
    return bool(os.environ.get("WRITE"))


def write_expectation(
    path: Path, title: str, *, lines: Sequence[str] | None = None, screen: str | None = None
) -> None:
    """Put what a case gives into its file; what is None stays as it is."""
    case = next(case for case in read_cases(path) if case.title == title)
    lines = case.expected if lines is None else lines
    screen = case.screen if screen is None else screen
    blocks = path.read_text(encoding="utf-8").split("\n=== ")
    index = next(index for index, block in enumerate(blocks) if block.partition("\n")[0] == title)
    shown = f"----\n{screen.strip()}\n" if screen else ""
    blocks[index] = f"{title}\n{case.given}~~~~\n" + "\n".join(lines) + f"\n{shown}"
    path.write_text("\n=== ".join(blocks), encoding="utf-8")
