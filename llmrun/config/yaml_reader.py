"""Read a safe subset of YAML, with the line of every key.

PyYAML parses; the tree and the meaning of scalars are defined here.  Plain scalars: `null`, `~` and nothing are null;
`true` and `false` are the only booleans; whole numbers and floats are decimal, `_` may group digits; `012`, `0x1f`,
`yes`, `1:30` and dates are text, so a field of another type refuses them.  Quoted scalars are text.  Tags, anchors,
aliases and further documents are refused.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import category

import yaml

from llmrun.config.problems import Problems, SourceLocation
from llmrun.config.quantities import DIGITS, LONGEST
from llmrun.errors import InputError

LARGEST_BYTES = 1024 * 1024
DEEPEST = 20

_WHOLE = re.compile(rf"[+-]?{DIGITS}")
_FLOAT = re.compile(rf"[+-]?(?:{DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_CONSTANTS: dict[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}
_NOT_FINITE = re.compile(r"[+-]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


@dataclass(frozen=True)
class Scalar:
    """A single value; `text` is as written, with quotes."""

    value: Any
    text: str


@dataclass(frozen=True)
class Listing:
    """A list."""

    items: "tuple[Node, ...]"


@dataclass(frozen=True)
class YamlEntry:
    """A key, its location and its value."""

    key: str
    location: SourceLocation
    value: "Node"


@dataclass(frozen=True)
class Mapping:
    """Entries with distinct keys."""

    entries: tuple[YamlEntry, ...]


Node = Scalar | Listing | Mapping
LocationOf = Callable[[int], SourceLocation]


class UnreadableError(Exception):
    """The text cannot be read as a config, not even in part."""

    def __init__(self, location: SourceLocation, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.location = location
        self.message = message
        self.hint = hint


def read_text(path: Path, what: str = "config") -> str:
    """The text of a UTF-8 file.  Raises InputError if it cannot be read or is larger than 1 MiB."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(f"{what} file not found: {path}", hints=_yaml_files_in(path.parent)) from error
    except IsADirectoryError as error:
        raise InputError(f"the {what} must be a file, got the directory {path}") from error
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise InputError(f"cannot read the {what} file {path}: {reason}") from error
    if len(content) > LARGEST_BYTES:
        raise InputError(f"the {what} file must be at most 1 MiB, got a larger one: {path}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"the {what} file {path} must be UTF-8, got byte 0x{content[error.start]:02x}",
            where=f"{path}:{line}",
            hints=["save the file as UTF-8"],
        ) from error


def _yaml_files_in(directory: Path) -> list[str]:
    """A hint that names YAML files of a directory, if it has any."""
    try:
        names = sorted(str(file) for file in directory.glob("*.yaml"))
    except OSError:
        return []
    return [f"`{directory}` has {', '.join(names[:5])}"] if names else []


def parse_yaml(text: str, location_of: LocationOf, problems: Problems) -> Node | None:
    """The tree of one YAML document, or None if it is empty.

    location_of: the location of a 1-based line.
    Duplicate keys are added to `problems`; the first one is used.
    Raises UnreadableError for wrong syntax, tags, anchors, aliases and several documents.
    """
    try:
        return _Builder(text, location_of, problems).build()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UnreadableError(location_of(line), f"not valid YAML: character U+{_code(error):04X}") from error
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, location_of) from error


def _code(error: yaml.reader.ReaderError) -> int:
    """The code point that the reader refused, which PyYAML gives as text or as a number."""
    return error.character if isinstance(error.character, int) else ord(error.character)


def _syntax_error(error: yaml.MarkedYAMLError, text: str, location_of: LocationOf) -> UnreadableError:
    """A syntax error with its usual cause, found from the characters at the marks in `text`.

    The context mark of PyYAML is where an unfinished construct begins, the problem mark is where parsing failed.
    """
    problem, opened = error.problem_mark or error.context_mark, error.context_mark
    location = location_of(problem.line + 1 if problem else 1)
    here, begin = _character_at(text, problem), _character_at(text, opened)
    if here == "\t":
        return UnreadableError(
            location, "not valid YAML: a tab in the indentation", "indent with spaces, not with tabs"
        )
    if opened is not None and begin and begin in "\"'[{":
        what = "quote" if begin in "\"'" else "bracket"
        hint = f"close the {what} that is opened at {location_of(opened.line + 1).where}"
        return UnreadableError(location, f"not valid YAML: unclosed {what}", hint)
    if isinstance(error, yaml.parser.ParserError) or here == ":":
        found = f"unexpected `{here}`" if here.strip() else "unexpected end"
        hint = "check the indentation of this line and of the one above"
        return UnreadableError(location, f"not valid YAML: {found}", hint)
    return UnreadableError(location, f"not valid YAML: {error.problem or 'unknown reason'}")


def _character_at(text: str, mark: yaml.Mark | None) -> str:
    return text[mark.index : mark.index + 1] if mark is not None else ""


class _Builder:
    """Builds the tree of one document from the parser's events."""

    def __init__(self, text: str, location_of: LocationOf, problems: Problems) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._location_of = location_of
        self._findings = problems

    def build(self) -> Node | None:
        """The root of the document."""
        root: Node | None = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise UnreadableError(
                        self._location(event),
                        "there must be one YAML document, got a second one",
                        "remove `---`",
                    )
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event)
        return root

    def _location(self, event: Any) -> SourceLocation:
        return self._location_of(event.start_mark.line + 1)

    def _node(self, event: Any, path: tuple[str, ...] = ()) -> Node:
        """The node that begins with `event`; `path` is the keys above it."""
        self._refuse_unsupported(event, len(path))
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(item, (*path, str(len(items)))))
            return Listing(tuple(items))
        return self._mapping(path)

    def _refuse_unsupported(self, event: Any, depth: int) -> None:
        """Refuse aliases, anchors, tags and deep nesting, with which a small file can exhaust memory."""
        location = self._location(event)
        if isinstance(event, yaml.AliasEvent):
            raise UnreadableError(
                location, f"aliases are not supported: *{event.anchor}", "write the value out"
            )
        if event.anchor is not None:
            raise UnreadableError(
                location, f"anchors are not supported: &{event.anchor}", "write the value out"
            )
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise UnreadableError(location, f"tags are not supported: {tag}", "write the plain value")
        if depth > DEEPEST:
            raise UnreadableError(location, f"nesting must be at most {DEEPEST} levels deep")

    def _mapping(self, path: tuple[str, ...]) -> Mapping:
        """The mapping whose start event was just read."""
        entries: dict[str, YamlEntry] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            location = self._location(event)
            key = self._node(event, (*path, "?"))
            if not isinstance(key, Scalar):
                raise UnreadableError(location, "a key must be a plain word")
            name = key.value if isinstance(key.value, str) else key.text
            value = self._node(next(self._events), (*path, name))
            if name in entries:
                first = entries[name].location.where
                dotted = ".".join((*path, name))
                self._findings.add(
                    location, f"duplicate key {dotted}, first given at {first}", dotted, "keep one of them"
                )
            else:
                entries[name] = YamlEntry(name, location, value)
        return Mapping(tuple(entries.values()))

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        for character in event.value:
            if category(character) in ("Cc", "Cs"):
                raise UnreadableError(
                    self._location(event),
                    f"text must not have control characters, got U+{ord(character):04X}",
                    "write it on one line",
                )
        if event.style is not None:
            return Scalar(event.value, f'"{event.value}"')
        return Scalar(value_of(event.value), event.value or "null")


def value_of(text: str) -> Any:
    """The value of a plain scalar: None, bool, int, float or str."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) > LONGEST:
        return text
    if _WHOLE.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text) + 0.0  # -0.0 becomes 0.0, so equal values have equal fingerprints
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def show_node(node: Node) -> str:
    """A node as shown in an error."""
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
