"""YAML by our rules: what a scalar means, where it stands, which files are refused."""

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmrun.config.problems import Problems, SourceLocation
from llmrun.config.yaml_reader import (
    DEEPEST,
    LARGEST_BYTES,
    Listing,
    Mapping,
    Node,
    Scalar,
    UnreadableError,
    parse_yaml,
    plain_value,
    read_text,
    value_of,
)
from llmrun.errors import InputError


def parse(text: str) -> Node | None:
    return parse_yaml(text, lambda line: SourceLocation(line, f"x:{line}"), Problems("x"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("false", False),
        ("0", 0),
        ("-17", -17),
        ("524_288", 524288),
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        ("-0.5", -0.5),
        (".5", 0.5),
        ("5.", 5.0),
        (".inf", math.inf),
        ("-.inf", -math.inf),
    ],
)
def test_plain_scalar_means(text: str, value: object) -> None:
    """Null, booleans and numbers are the ones of the rules, with their types."""
    found = value_of(text)

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text", ["yes", "no", "on", "off", "True", "NULL", "012", "0x10", "0o17", "1:30", "2024-01-01", "1_", "1__0", "1" * 65, "-", "1Ki", "٣"]
)  # fmt: skip
def test_anything_else_is_text(text: str) -> None:
    """What YAML 1.1 reads as booleans, octals, sexagesimals and dates stays text."""
    assert value_of(text) == text


def test_minus_zero_is_zero() -> None:
    """-0.0 and 0.0 are one number, so that they have one fingerprint."""
    assert math.copysign(1.0, value_of("-0.0")) == 1.0


def test_quoted_scalar_is_text() -> None:
    """Quotes make text of what would be a number."""
    assert plain_value(parse("{a: '1', b: \"true\"}") or Mapping(())) == {"a": "1", "b": "true"}


def test_every_key_knows_its_line() -> None:
    """The place of a key is the line it stands on, in block and in flow style."""
    tree = parse("# first\na: 1\nb:\n  c: 2\n\n  d: {e: 3,\n    f: 4}\n")

    assert isinstance(tree, Mapping)
    assert lines_of(tree) == {"a": 2, "b": 3, "c": 4, "d": 6, "e": 6, "f": 7}


def lines_of(tree: Mapping) -> dict[str, int]:
    found = {}
    for entry in tree.entries:
        found[entry.key] = entry.location.order
        if isinstance(entry.value, Mapping):
            found |= lines_of(entry.value)
    return found


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(st.characters(codec="ascii", exclude_categories=["Cc"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(VALUES)
def test_written_yaml_reads_back(value: Any) -> None:
    """What PyYAML writes in its plainest form is read as the same value, for any tree of a few levels."""
    text = yaml.safe_dump(
        value, default_flow_style=True, default_style='"' if isinstance(value, str) else None
    )
    node = parse(text)

    assert node is not None
    assert same(plain_value(node), value)


def same(found: Any, value: Any) -> bool:
    # PyYAML leaves text unquoted that only YAML 1.1 takes for text: to us "1e3" is a number.
    if isinstance(value, dict):
        return found.keys() == value.keys() and all(same(found[key], value[key]) for key in value)
    if isinstance(value, list):
        return len(found) == len(value) and all(map(same, found, value))
    return found == value or (isinstance(value, str) and value_of(value) == found)


def test_nesting_is_bounded_before_it_hurts() -> None:
    """A million brackets are refused after twenty, not by a stack overflow."""
    with pytest.raises(UnreadableError, match=str(DEEPEST)):
        parse("a: " + "[" * 1_000_000)


def test_duplicate_keys_are_all_found() -> None:
    """Every duplicate is a problem of its own; the first value counts."""
    problems = Problems("x")
    tree = parse_yaml(
        "a: 1\na: 2\nb: {c: 1, c: 2}\n", lambda line: SourceLocation(line, f"x:{line}"), problems
    )

    assert [(p.where, p.key) for p in problems.error().problems] == [("x:2", "a"), ("x:3", "b.c")]
    assert tree is not None
    assert plain_value(tree) == {"a": 1, "b": {"c": 1}}


def refused(path: Path) -> tuple[str, str | None]:
    with pytest.raises(InputError) as caught:
        read_text(path)
    where = caught.value.where
    return caught.value.message.replace(str(path.parent), "DIR"), None if where is None else str(where)


def test_missing_file_is_named_with_its_neighbours(tmp_path: Path) -> None:
    """A missing file is an error that shows which configs lie beside it."""
    (tmp_path / "gpt.yaml").touch()
    with pytest.raises(InputError) as caught:
        read_text(tmp_path / "gtp.yaml")

    assert f"{tmp_path}/gtp.yaml" in caught.value.message
    assert f"{tmp_path}/gpt.yaml" in caught.value.hints[0]


def test_directory_is_refused(tmp_path: Path) -> None:
    """A directory is no config."""
    (tmp_path / "d").mkdir()

    message, where = refused(tmp_path / "d")
    assert "directory DIR/d" in message
    assert where is None


def test_path_through_a_file_is_refused(tmp_path: Path) -> None:
    """A path that cannot exist gives the system's reason."""
    (tmp_path / "file").touch()

    message, _ = refused(tmp_path / "file" / "x.yaml")
    assert message.endswith(": not a directory")


def test_other_encoding_is_refused_at_its_line(tmp_path: Path) -> None:
    """A byte that is no UTF-8 is named with its line."""
    path = tmp_path / "x.yaml"
    path.write_bytes(b"seed: 1\nname: caf\xe9\n")

    message, where = refused(path)
    assert "0xe9" in message
    assert where == f"{path}:2"


def test_utf_16_is_refused(tmp_path: Path) -> None:
    """A file in UTF-16 is refused, although PyYAML would read it."""
    path = tmp_path / "x.yaml"
    path.write_text("seed: 1\n", encoding="utf-16")

    assert "0xff" in refused(path)[0]


def test_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    """The mark that some editors write first is skipped."""
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfseed: 1\n")

    assert read_text(path) == "seed: 1\n"


def test_large_file_is_refused(tmp_path: Path) -> None:
    """One byte more than 1 MiB is too large; 1 MiB is not."""
    path = tmp_path / "x.yaml"
    path.write_bytes(b"#" * LARGEST_BYTES)
    assert len(read_text(path)) == LARGEST_BYTES

    path.write_bytes(b"#" * (LARGEST_BYTES + 1))
    assert "1 MiB" in refused(path)[0]


def test_control_character_is_refused_at_its_line() -> None:
    """A NUL in the file is named with its line."""
    with pytest.raises(UnreadableError) as caught:
        parse("a: 1\nb: \0\n")

    assert "U+0000" in caught.value.message
    assert caught.value.location.order == 2


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("a: 1\nb:\n\tc: 1\n", 3, "not with tabs"),
        ('a: "x\nb: 1\n', 3, "quote that is opened at x:1"),
        ("a: 'x\n", 2, "quote that is opened at x:1"),
        ("a: [1, 2\nb: 1\n", 2, "bracket that is opened at x:1"),
        ("a: {b: 1\n", 2, "bracket that is opened at x:1"),
        ("a: 1\n  b: 2\n", 2, "indentation"),
        ("- a\nb: 1\n", 2, "indentation"),
    ],
)
def test_the_usual_syntax_errors_get_a_hint(text: str, line: int, hint: str) -> None:
    """Tabs, unclosed quotes and brackets, and wrong indentation are told apart by what stands in the text."""
    with pytest.raises(UnreadableError) as caught:
        parse(text)

    assert caught.value.location.order == line
    assert hint in (caught.value.hint or "")


@given(st.text(max_size=200) | st.text("[]{}:,-?&*!|>'\"%@` \n\t#a1", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes the reader fail in another way than by refusing."""
    with contextlib.suppress(UnreadableError):
        assert isinstance(parse(text), Scalar | Listing | Mapping | None)
