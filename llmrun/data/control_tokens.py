"""Removes control tokens from a `tokenizer.json`, so that no text is encoded to one.

The library searches the raw text for added tokens, and a model may also have them in its vocabulary: as words
(WordLevel, WordPiece), as pieces (Unigram), as results of merges (BPE).  Both are prevented here.  All other tokens keep
their ids, so a text that spells no such token is encoded as before.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmrun.data.documents import Document

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_NEVER_IN_TEXT = "\U0010ffff"
"""A noncharacter that begins the new name of a vocabulary entry that no text may yield."""


class ControlTokenNeededError(ValueError):
    """The tokenizer needs a control token for ordinary text."""


@dataclass(frozen=True)
class AddedToken:
    """One entry of `added_tokens`."""

    content: str
    id: int
    special: bool


def added_tokens(content: bytes) -> list[AddedToken]:
    """The added tokens of a tokenizer.json that the library has already accepted."""
    tokens = json.loads(content).get("added_tokens") or []
    return [AddedToken(token["content"], token["id"], token["special"]) for token in tokens]


def special_names(content: bytes) -> list[str]:
    """The names of the special tokens of a tokenizer.json, without the bytes of a byte fallback."""
    return [t.content for t in added_tokens(content) if t.special and not _BYTE.fullmatch(t.content)]


def renumbered(content: bytes, engine: Any) -> list[tuple[AddedToken, int | None]]:
    """The added tokens whose id in the library differs from the one in the file, each with its id in the library."""
    found = [(token, engine.token_to_id(token.content)) for token in added_tokens(content)]
    return [(token, given) for token, given in found if given != token.id]


def without_control_tokens(content: bytes, engine: Any, eot_id: int) -> bytes:
    """A tokenizer.json like `content` that encodes no text to a control token.

    engine: the `tokenizers.Tokenizer` of `content`.
    Raises ControlTokenNeededError if a control token is a single character that text needs.
    """
    whole: dict[str, Any] = json.loads(content)
    model = whole["model"]
    kind = type(engine.model).__name__
    control = _control_names(content, engine, model, kind, eot_id)
    new_name = _renamer(control)
    whole["added_tokens"] = []
    whole["post_processor"] = None
    if kind == "Unigram":
        model["vocab"] = [[new_name(piece), score] for piece, score in model["vocab"]]
    else:
        model["vocab"] = {new_name(entry): number for entry, number in model["vocab"].items()}
    if kind == "BPE":
        model["merges"] = _merges_without(model, control)
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = new_name(model["unk_token"])
    return json.dumps(whole).encode()


def _renamer(control: set[str]) -> Callable[[str], str]:
    """A function that renames control tokens to names that no text contains."""
    return lambda name: _NEVER_IN_TEXT + name if name in control else name


def _control_names(content: bytes, engine: Any, model: Mapping[str, Any], kind: str, eot_id: int) -> set[str]:
    """The entries of the model's vocabulary that no text may yield.  Raises ControlTokenNeededError.

    Text may still yield the bytes of a byte fallback and, in a BPE, an added token that is not special and that the
    model's own merges produce, such as a run of newlines.
    """
    vocabulary = {entry[0] for entry in model["vocab"]} if kind == "Unigram" else set(model["vocab"])
    end = engine.id_to_token(eot_id)
    spelled = {_joined(left, right, model) for left, right in _pairs(model)} if kind == "BPE" else set()
    control: set[str] = set()
    for token in [*added_tokens(content), AddedToken(end, eot_id, special=True)]:
        name = token.content
        if name not in vocabulary or (model.get("byte_fallback") and _BYTE.fullmatch(name)):
            continue
        if not token.special and name != end and (len(name) == 1 or name in spelled):
            continue
        if len(name) == 1:
            what = "the token that ends a document" if name == end else "a special token"
            raise ControlTokenNeededError(f"{what} must not be a single character, got {name!r}")
        control.add(name)
    return control


def _pairs(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The merges of a BPE; older files write each as the string `left right`."""
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    return [(left, right) for left, right in merges]


def _joined(left: str, right: str, model: Mapping[str, Any]) -> str:
    """The token that a merge produces."""
    return left + right.removeprefix(model.get("continuing_subword_prefix") or "")


def _merges_without(model: Mapping[str, Any], control: set[str]) -> list[list[str]]:
    """The merges that neither use nor produce a control token, in order."""
    return [
        [left, right]
        for left, right in _pairs(model)
        if control.isdisjoint((left, right, _joined(left, right, model)))
    ]


class SpelledTokens:
    """Counts documents that have the name of a control token in their text, where it stays text.

    first: such a name, and the name of the document where it was found.
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.documents = 0
        self.first = ("", "")

    def see(self, document: Document) -> None:
        """Count one document."""
        for prefix in dict.fromkeys(name[:2] for name in self.names):  # hundreds of names begin alike
            if prefix not in document.text:
                continue
            found = next((n for n in self.names if n.startswith(prefix) and n in document.text), None)
            if found is not None:
                self.first = self.first if self.documents else (found, document.name)
                self.documents += 1
                return

    def notes(self) -> Iterator[str]:
        """Yield one line for the user if there are such documents."""
        if self.documents:
            yield (
                "documents with the name of a control token in their text, kept as text:"
                f" {self.documents:,}; the first is {self.first[1]} ({self.first[0]})"
            )
