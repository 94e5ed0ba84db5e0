"""YAML as the config wants it: positions of every key, no surprises, nothing executed.

PyYAML's parser gives events with positions; the tree and the meaning of scalars are ours.  Plain scalars:
`null`, `~` and nothing are null; `true` and `false` are the only booleans; whole numbers and floats are
decimal, `_` may group digits; `012`, `0x1f`, `yes`, `1:30` and dates are text, so that a field that wants
another type refuses them.  Quoted scalars are text.  Tags, anchors, aliases and further documents are refused.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import category

import yaml

from llmrun.config.findings import Findings, SourcePlace
from llmrun.config.quantities import DIGITS, LONGEST
from llmrun.errors import InputError, Place

LARGEST_BYTES = 1024 * 1024
DEEPEST = 20

_WHOLE = re.compile(rf"[+-]?{DIGITS}")
_FLOAT = re.compile(rf"[+-]?(?:{DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_CONSTANTS: dict[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}
_NOT_FINITE = re.compile(r"[+-]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


@dataclass(frozen=True)
class Scalar:
    """A single value; `text` is as written, quotes included."""

    value: Any
    text: str


@dataclass(frozen=True)
class Listing:
    """A list of values."""

    items: "tuple[Node, ...]"


@dataclass(frozen=True)
class YamlEntry:
    """A key with its value and its place."""

    key: str
    place: SourcePlace
    value: "Node"


@dataclass(frozen=True)
class Mapping:
    """Keys and values; no key twice."""

    entries: tuple[YamlEntry, ...]


Node = Scalar | Listing | Mapping
PlaceOf = Callable[[int], SourcePlace]


class UnreadableError(Exception):
    """A text that gives no tree at all."""

    def __init__(self, place: SourcePlace, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.place = place
        self.message = message
        self.hint = hint


def read_text(path: Path, what: str = "config") -> str:
    """The text of a file.  Raises InputError where it cannot be read as UTF-8 of at most 1 MiB."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(f"there is no {what} file {path}", hints=_files_beside(path)) from error
    except IsADirectoryError as error:
        raise InputError(f"the {what} {path} is a directory, not a file") from error
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise InputError(f"the {what} file {path} cannot be read: {reason}") from error
    if len(content) > LARGEST_BYTES:
        raise InputError(f"the {what} file {path} is larger than 1 MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"the {what} file {path} is not UTF-8: byte 0x{content[error.start]:02x}",
            where=Place(str(path), line),
            hints=["save the file as UTF-8"],
        ) from error


def _files_beside(path: Path) -> list[str]:
    """A hint that names the YAML files of the directory, if there are any."""
    try:
        names = sorted(str(file) for file in path.parent.glob("*.yaml"))
    except OSError:
        return []
    return [f"`{path.parent}` holds {', '.join(names[:5])}"] if names else []


def parse_yaml(text: str, place_of: PlaceOf, findings: Findings) -> Node | None:
    """The tree of one YAML document; None where it is empty.

    place_of: the place of a 1-based line.  Duplicate keys go to `findings`, the first one counts.
    Raises UnreadableError for what gives no tree: bad syntax, tags, anchors, aliases, several documents.
    """
    try:
        return _Builder(text, place_of, findings).build()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UnreadableError(
            place_of(line), f"a character that YAML does not allow: U+{_code(error):04X}"
        ) from error
    except yaml.MarkedYAMLError as error:
        raise _explain_syntax(error, place_of) from error


def _code(error: yaml.reader.ReaderError) -> int:
    """The code point that the reader refused."""
    return error.character if isinstance(error.character, int) else ord(error.character)


TOKENS = {
    "'<stream end>'": "the end",
    "'<document start>'": "`---`",
    "'<block mapping start>'": "a mapping",
    "'<block sequence start>'": "a list",
    "'<scalar>'": "a value",
    "<block end>": "no more",
    "end of stream": "end",
    "could not find expected": "could not find the expected",
}
"""The parser's names of things, in words."""


def _explain_syntax(error: yaml.MarkedYAMLError, place_of: PlaceOf) -> UnreadableError:
    """An error of syntax, with what usually causes it."""
    mark = error.problem_mark or error.context_mark
    place = place_of(mark.line + 1 if mark else 1)
    problem = error.problem or "unknown reason"
    hint = None
    if "\\t" in problem:
        hint = "indent with spaces, not with tabs"
    elif "quoted" in (error.context or "") and error.context_mark is not None:
        hint = f"close the quote that is opened at {place_of(error.context_mark.line + 1).where}"
    elif "flow" in (error.context or "") and error.context_mark is not None:
        hint = f"close the bracket that is opened at {place_of(error.context_mark.line + 1).where}"
    elif "<block end>" in problem or "mapping values are not allowed" in problem:
        hint = "check the indentation of this line and of the one above"
    for token, words in TOKENS.items():
        problem = problem.replace(token, words)
    return UnreadableError(place, f"not valid YAML: {problem}", hint)


class _Builder:
    """The tree of one document out of the parser's events."""

    def __init__(self, text: str, place_of: PlaceOf, findings: Findings) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._place_of = place_of
        self._findings = findings

    def build(self) -> Node | None:
        """The root of the only document."""
        root: Node | None = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise UnreadableError(
                        self._place(event), "a second YAML document: a config is one", "remove `---`"
                    )
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event)
        return root

    def _place(self, event: Any) -> SourcePlace:
        return self._place_of(event.start_mark.line + 1)

    def _node(self, event: Any, path: tuple[str, ...] = ()) -> Node:
        """The node that begins with `event`, below the keys `path`."""
        self._refuse_cleverness(event, len(path))
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(item, (*path, str(len(items)))))
            return Listing(tuple(items))
        return self._mapping(path)

    def _refuse_cleverness(self, event: Any, depth: int) -> None:
        """Refuse what a config has no use for and a parser can be hurt with."""
        place = self._place(event)
        if isinstance(event, yaml.AliasEvent):
            raise UnreadableError(
                place, f"alias *{event.anchor}: a config has no aliases", "write the value out"
            )
        if event.anchor is not None:
            raise UnreadableError(
                place, f"anchor &{event.anchor}: a config has no anchors", "write the value out"
            )
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise UnreadableError(place, f"tag {tag}: a config has no tags", "write the plain value")
        if depth > DEEPEST:
            raise UnreadableError(place, f"nested more than {DEEPEST} levels deep: a config has two")

    def _mapping(self, path: tuple[str, ...]) -> Mapping:
        """The mapping whose start was just read."""
        entries: dict[str, YamlEntry] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            place = self._place(event)
            key = self._node(event, (*path, "?"))
            if not isinstance(key, Scalar):
                raise UnreadableError(place, "a key that is not a plain word")
            name = key.value if isinstance(key.value, str) else key.text
            value = self._node(next(self._events), (*path, name))
            if name in entries:
                first = entries[name].place.where
                dotted = ".".join((*path, name))
                self._findings.add(
                    place, f"{dotted} is given twice, first at {first}", dotted, "keep one of them"
                )
            else:
                entries[name] = YamlEntry(name, place, value)
        return Mapping(tuple(entries.values()))

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        """One scalar with its meaning."""
        for character in event.value:
            if category(character) in ("Cc", "Cs"):
                raise UnreadableError(
                    self._place(event),
                    f"text with the control character U+{ord(character):04X}",
                    "write it on one line",
                )
        if event.style is not None:
            return Scalar(event.value, f'"{event.value}"')
        return Scalar(value_of(event.value), event.value or "null")


def value_of(text: str) -> Any:
    """What a plain scalar means: None, bool, int, float or str."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) > LONGEST:
        return text
    if _WHOLE.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text) + 0.0  # -0.0 becomes 0.0: one number, one spelling in the fingerprint
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def show_node(node: Node) -> str:
    """A node as an error quotes it."""
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Listing):
        return f"[{', '.join(show_node(item) for item in node.items)}]"
    return node.text


def plain_value(node: Node) -> Any:
    """A node as lists, dicts and scalars."""
    if isinstance(node, Mapping):
        return {entry.key: plain_value(entry.value) for entry in node.entries}
    if isinstance(node, Listing):
        return [plain_value(item) for item in node.items]
    return node.value
