"""Formats of input: the same text gives the same stream in each; damage is named; nothing is shorter in silence."""

import gzip
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.cli.app import run
from llmrun.data import columnar, json_lines
from llmrun.data.documents import read_corpus
from llmrun.data.input_files import find_files
from llmrun.data.json_lines import _lines, decompressed
from llmrun.data.prepare import prepare
from llmrun.data.rows import ReadOptions
from llmrun.errors import InputError, RefusedError

from .conftest import text_of

TEXTS = [text_of(number) for number in range(130)] + [
    "",
    "\ufeffmarked\r\nline",
    "\ufeff",
    "数\u2028据",
    " \n",
]


def as_lines(texts, **more):
    """JSON lines, as bytes."""
    rows = [{"id": number, "text": text, **more} for number, text in enumerate(texts)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def frames(content, n_bytes):
    """Zstandard frames of `n_bytes` of content each, after a skippable frame."""
    parts = [content[i : i + n_bytes] for i in range(0, len(content), n_bytes)]
    skippable = b"\x50\x2a\x4d\x18\x03\0\0\0abc"
    return skippable + b"".join(zstandard.ZstdCompressor(3).compress(part) for part in parts)


def members(content, n_bytes):
    """Concatenated gzip members."""
    return b"".join(gzip.compress(content[i : i + n_bytes]) for i in range(0, len(content), n_bytes))


def parquet(texts, row_group_size, kind=None, **options):
    """A Parquet file, as bytes."""
    buffer = io.BytesIO()
    kind = kind or pa.string()
    pq.write_table(
        pa.table({"id": range(len(texts)), "text": pa.array(texts, kind)}),
        buffer,
        row_group_size=row_group_size,
        **options,
    )
    return buffer.getvalue()


def arrow(texts, batch_rows, make):
    """An Arrow file or stream, as bytes."""
    table = pa.table({"text": pa.array(texts, pa.large_string())})
    buffer = io.BytesIO()
    with make(buffer, table.schema) as writer:
        writer.write_table(table, batch_rows)
    return buffer.getvalue()


LINES = as_lines(TEXTS)
SAME_TEXT = {
    "plain.jsonl": LINES,
    "crlf_without_end.jsonl": b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n\r\n").rstrip(),
    "one.jsonl.gz": gzip.compress(LINES),
    "many.json.gz": members(LINES, 999),
    "one.jsonl.zst": zstandard.ZstdCompressor(9).compress(LINES),
    "many.jsonl.zst": frames(LINES, 777),
    "one.parquet": parquet(TEXTS, 10**6),
    "rows7.parquet": parquet(TEXTS, 7, compression="zstd"),
    "rows1_bytes.parquet": parquet(
        [text.encode() for text in TEXTS], 1, pa.binary(), write_page_checksum=True
    ),
    "dictionary.parquet": parquet(TEXTS, 50, pa.dictionary(pa.int32(), pa.string())),
    "file.arrow": arrow(TEXTS, 11, pa.ipc.new_file),
    "stream.arrow": arrow(TEXTS, 64, pa.ipc.new_stream),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def digests(manifest):
    """What enters the fingerprint."""
    return {name: split.stream_digest for name, split in manifest.splits.items()}


def command(capsys, *arguments):
    """Exit code, JSON (None after a refusal) and stderr of preparing with bytes as tokens."""
    code = run(["data", "prepare", *map(str, arguments), "--tokenizer", "byte", "--out", "out", "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if code == 0 else None, captured.err


def test_one_stream_for_every_format(place):
    """Text files, JSON lines, gzip, zstandard, Parquet and Arrow of the same texts give the same streams and counts."""
    Path("texts").mkdir()
    for number, text in enumerate(TEXTS):
        Path(f"texts/{number:04}.txt").write_bytes(text.encode())
    expected = prepare([Path("texts")], Path("made/txt"), "byte", val_fraction=0.1).manifest
    assert expected.splits["val"].documents > 1
    for name, content in SAME_TEXT.items():
        Path(name).write_bytes(content)
        found = prepare([Path(name)], Path("made", name), "byte", val_fraction=0.1).manifest

        assert digests(found) == digests(expected), name
        assert found.recipe["text"] == expected.recipe["text"]
        assert found.recipe["left_out"] == expected.recipe["left_out"]
        assert found.recipe["rows"] == {"read": len(TEXTS), "skipped": {}}
        assert {k: vars(found.splits[k]) | {"shards": 0} for k in found.splits} == {
            k: vars(expected.splits[k]) | {"shards": 0} for k in expected.splits
        }


def test_markdown_is_text(place):
    """A `.md` file is one document; beside text files it is left out and counted."""
    Path("notes").mkdir()
    Path("notes/a.md").write_text("# a")
    alone = read_corpus([Path("notes")])
    Path("notes/b.txt").write_text("b")
    beside = read_corpus([Path("notes")])

    assert [d.text for d in alone.read()] == ["# a"]
    assert [d.text for d in beside.read()] == ["b"]
    assert beside.left_out == {"other_endings": 1}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20), max_size=12
    ),
    st.integers(1, 40),
)
def test_blocks_of_any_size(texts, n_bytes):
    """Where blocks, frames and members end does not matter, with or without a newline at the end."""
    content = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()
    blocks = [content[i : i + n_bytes] for i in range(0, len(content), n_bytes)]
    expected = content.split(b"\n")[:-1]

    assert list(_lines(iter(blocks), 10**6)) == expected
    assert list(_lines(iter([content[:-1]]), 10**6)) == expected[: len(content)]
    if content:
        for compression, packed in (
            ("gzip", members(content, n_bytes)),
            ("zstandard", frames(content, n_bytes)),
        ):
            assert b"".join(decompressed(io.BytesIO(packed), compression)) == content


def test_long_lines_are_not_kept():
    """A line above the limit gives nothing, whatever the blocks; its neighbours are whole."""
    content = b"ab\n" + b"x" * 100 + b"\ncd\n" + b"y" * 11
    for n_bytes in (1, 7, 1000):
        blocks = [content[i : i + n_bytes] for i in range(0, len(content), n_bytes)]

        assert list(_lines(iter(blocks), 10)) == [b"ab", None, b"cd", None]


def test_fields(place):
    """Fields are named, nested or with a dot in their name; ids too."""
    rows = [{"a": {"b": {"c": f"text {n}"}}, "x.y": f"other {n}", "meta": {"id": f"i{n}"}} for n in range(3)]
    Path("n.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), "n.parquet")
    for name in ("n.jsonl", "n.parquet"):
        for text_field, word in (("a.b.c", "text"), ("x.y", "other")):
            corpus = read_corpus([Path(name)], options=ReadOptions(text_field, "meta.id"))

            assert [d.text for d in corpus.read()] == [f"{word} {n}" for n in range(3)]
            assert [d.row_id for d in corpus.read()] == ["i0", "i1", "i2"]
            assert [d.name for d in corpus.read()] == [f"{name}, row {n}" for n in (1, 2, 3)]


def test_missing_and_empty_texts_are_counted(place, capsys):
    """Rows without the field, with null and with an empty text are left out, counted and shown."""
    rows = [{"text": "one"}, {"id": 2}, {"text": None}, {"text": ""}, {"text": "two"}]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        shutil.rmtree("out", ignore_errors=True)
        code, made, err = command(capsys, name)

        assert code == 0
        assert made["recipe"]["left_out"] == {"empty": 1, "missing_text": 2}
        assert made["recipe"]["rows"]["read"] == 5
        assert made["recipe"]["inputs"]["documents"] == 2
        assert "rows without a text, left out: 2" in err


def test_no_such_field(place, capsys):
    """A field that no row has is refused with those there are."""
    Path("a.jsonl").write_text('{"content": "x"}\n')
    pq.write_table(pa.table({"content": ["x"]}), "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        code, _, err = command(capsys, name)

        assert (code, Path("out").exists()) == (2, False)
        assert "'content'" in err
        assert "--text-field" in err


GOOD = b'{"text": "one"}\n'
BAD_ROWS = {
    "not_json": b'{"text": "tw\n',
    "nested": b'{"text": ' + b"[" * 100_000 + b"\n",
    "long_number": b'{"n": ' + b"1" * 5000 + b', "text": "x"}\n',
    "not_object": b'["two"]\n',
    "wrong_type": b'{"text": 2}\n',
    "not_text": b'{"text": "caf\xe9"}\n',
}
BAD_TEXTS = {"surrogate": "\\ud800", "nul": "a\\u0000b", "pdf": "%PDF-1.7"}


@pytest.mark.parametrize("kind", [*BAD_ROWS, *BAD_TEXTS])
def test_bad_rows(place, capsys, kind):
    """A bad row is refused by file and row; with `skip` it is left out, counted and shown, and the rest is there."""
    bad = BAD_ROWS.get(kind) or b'{"text": "%s"}\n' % BAD_TEXTS[kind].encode()
    Path("a.jsonl").write_bytes(GOOD + bad + GOOD.replace(b"one", b"three") + bad)
    code, _, err = command(capsys, "a.jsonl", "--val-fraction", 0)

    assert (code, Path("out").exists()) == (2, False)
    assert "a.jsonl, row 2" in err
    assert "--on-bad-row skip" in err
    code, made, err = command(capsys, "a.jsonl", "--val-fraction", 0, "--on-bad-row", "skip")
    key = {"nested": "not_json", "long_number": "not_json"}.get(
        kind, kind if kind in BAD_ROWS else "not_text"
    )

    assert code == 0
    assert made["recipe"]["rows"] == {"read": 4, "skipped": {key: 2}}
    assert made["recipe"]["options"]["rows"]["on_bad_row"] == "skip"
    assert "bad rows skipped: 2 of 4" in err
    assert "first a.jsonl, row 2" in err
    assert np.fromfile("out/train-00000.bin", "<u2").tolist() == [*b"one", 256, *b"three", 256]


def test_bad_rows_of_columns(place, capsys):
    """Invalid UTF-8 in a column of text is a bad row, too; a column of numbers has no text at all."""
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"ok\xff\xfe")]
    )
    pq.write_table(pa.table({"text": broken}), "a.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), "b.parquet")

    assert "a.parquet, row 2" in command(capsys, "a.parquet")[2]
    assert "b.parquet, row 1" in command(capsys, "b.parquet")[2]
    code, made, _ = command(capsys, "a.parquet", "--on-bad-row", "skip")
    assert (code, made["recipe"]["rows"]["skipped"]) == (0, {"not_text": 1})


def test_only_bad_rows(place, capsys):
    """If nothing is left after bad rows are skipped, the error says that, not that documents are empty."""
    Path("a.jsonl").write_bytes('{"text": "x"}\n'.encode("utf-16"))
    code, _, err = command(capsys, "a.jsonl", "--on-bad-row", "skip")

    assert (code, Path("out").exists()) == (2, False)
    assert "2 rows cannot be used" in err
    assert "a.jsonl, row 1" in err


def test_ids(place, capsys):
    """A row without an id is bad, errors name ids, and an id that comes again is counted."""
    Path("a.jsonl").write_text('{"id": "x", "text": "one"}\n{"id": "x", "text": "two"}\n{"text": "three"}\n')
    Path("b.jsonl").write_text('{"id": "y7", "text": "a\\u0000"}\n')
    code, _, err = command(capsys, "a.jsonl", "--id-field", "id")
    skipped = command(capsys, "a.jsonl", "--id-field", "id", "--on-bad-row", "skip")

    assert code == 2
    assert "a.jsonl, row 3" in err
    assert skipped[1]["recipe"]["rows"] == {"read": 3, "skipped": {"no_id": 1}, "repeated_ids": 1}
    assert "y7" in command(capsys, "b.jsonl", "--id-field", "id")[2]


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html>\n<html><body>Not found</body></html>"
STREAM = SAME_TEXT["stream.arrow"]
DAMAGED = {
    "half.jsonl.gz": (gzip.compress(LINES)[:-20], "truncated"),
    "second.jsonl.gz": (gzip.compress(LINES) + gzip.compress(LINES)[:-9], "truncated"),
    "flipped.jsonl.gz": (gzip.compress(LINES)[:-6] + b"\0\0\0\0\0\0", "gzip"),
    "tail.jsonl.gz": (gzip.compress(LINES) + b"garbage", "gzip"),
    "empty.jsonl.gz": (b"", "empty"),
    "half.jsonl.zst": (frames(LINES, 10**9)[:-5], "truncated"),
    "second.jsonl.zst": (frames(LINES, 777)[:-5], "truncated"),
    "tail.jsonl.zst": (frames(LINES, 777) + b"garbage!", "zstandard"),
    "empty.jsonl.zst": (b"", "empty"),
    "half.parquet": (parquet(TEXTS, 7)[:-50], "Parquet"),
    "empty.parquet": (b"", "empty"),
    "half.arrow": (SAME_TEXT["file.arrow"][:-50], "Arrow"),
    "between.arrow": (STREAM[:-8], "truncated"),
    "half_stream.arrow": (STREAM[: len(STREAM) // 2] + STREAM[-8:], "Arrow"),
    "two.arrow": (STREAM + STREAM, "bytes before the file"),
    "length.arrow": (STREAM[:4] + b"\xff\xff\xff\x7f" + STREAM[8:], "Arrow"),
    "pointer.txt": (POINTER, "git lfs pull"),
    "pointer.parquet": (POINTER, "git lfs pull"),
    "pointer.jsonl": (POINTER, "git lfs pull"),
    "page.jsonl": (PAGE, "HTML"),
    "page.jsonl.gz": (PAGE, "HTML"),
    "page.parquet": (PAGE, "HTML"),
    "plain.jsonl.gz": (LINES, "not jsonl.gz"),
    "packed.jsonl": (gzip.compress(LINES), "gzip"),
    "lines.parquet": (LINES, "not parquet"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(place, capsys, name):
    """A file that is truncated, damaged or something else is refused by name, even if bad rows are skipped."""
    content, word = DAMAGED[name]
    Path("in").mkdir()
    Path("in", name).write_bytes(content)
    skip = [] if name.endswith(".txt") else ["--on-bad-row", "skip"]
    code, _, err = command(capsys, "in", *skip)

    assert (code, Path("out").exists()) == (2, False)
    assert f"in/{name}" in err
    assert word in err


def test_a_flipped_page(place, capsys):
    """A flipped bit in a Parquet page with a checksum is found."""
    content = bytearray(
        parquet([text_of(n) for n in range(50)], 50, compression="none", write_page_checksum=True)
    )
    content[content.index(b"Document 7") + 3] ^= 1
    Path("a.parquet").write_bytes(content)
    code, _, err = command(capsys, "a.parquet")

    assert code == 2
    assert "a.parquet" in err


def test_all_pointers_are_named(place, capsys):
    """Every file that is not what its name says is named before anything is read."""
    Path("in").mkdir()
    for number in range(3):
        Path(f"in/{number}.parquet").write_bytes(POINTER)
    Path("in/3.parquet").write_bytes(parquet(TEXTS, 7))
    err = command(capsys, "in")[2]

    assert "3 of 4 files" in err
    assert all(f"in/{number}.parquet" in err for number in range(3))


def test_html_in_text_files_is_said(place, capsys):
    """An HTML page in a text file is text, and said."""
    Path("a.txt").write_bytes(PAGE)
    code, _, err = command(capsys, "a.txt")

    assert code == 0
    assert "HTML page" in err


def test_too_long_documents(place, capsys):
    """A document above the limit is refused with the limit, or skipped if it is a row; the limit can be raised."""
    Path("a.txt").write_text("x" * 101)
    Path("a.jsonl").write_bytes(as_lines(["x" * 101, "y" * 100, "z" * 1000]))
    Path("a.parquet").write_bytes(parquet(["x" * 101, "y" * 100, "z" * 1000], 9))
    for name in ("a.txt", "a.jsonl", "a.parquet"):
        code, _, err = command(capsys, name, "--max-document", 100)

        assert code == 2
        assert "100 bytes" in err
        assert "--max-document" in err
    for name in ("a.jsonl", "a.parquet"):
        shutil.rmtree("out", ignore_errors=True)
        _, made, _ = command(capsys, name, "--max-document", 100, "--on-bad-row", "skip")

        assert made["recipe"]["rows"] == {"read": 3, "skipped": {"too_long": 2}}
        assert made["recipe"]["options"]["max_document"] == 100
    shutil.rmtree("out")
    assert command(capsys, "a.txt", "--max-document", 101)[0] == 0


def test_patterns(place):
    """A pattern takes what it matches, named and sorted as in its directory; `**` any depth."""
    for name in (
        "c/b/z.jsonl",
        "c/b.jsonl",
        "c/a/9.jsonl",
        "c/a/10.jsonl",
        "c/.h.jsonl",
        "c/x.txt",
        "d/y.jsonl",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(json.dumps({"text": name}))

    def names(*patterns):
        return [name for _, name in find_files([Path(pattern) for pattern in patterns]).files]

    assert names("c/**/*.jsonl") == ["a/10.jsonl", "a/9.jsonl", "b.jsonl", "b/z.jsonl"]
    assert names("c/*.jsonl") == ["b.jsonl"]
    assert names("c/*/*.jsonl") == ["a/10.jsonl", "a/9.jsonl", "b/z.jsonl"]
    assert names("[cd]/?.jsonl") == ["c/b.jsonl", "d/y.jsonl"]
    assert names("c/b/**", "c/*.txt") == ["z.jsonl", "x.txt"]
    assert find_files([Path("c/*.jsonl")]).left_out == {"hidden": 1}
    for wrong in ("c/*.parquet", "c", "c/*"):
        with pytest.raises(InputError):
            names(wrong)


def test_mixed_formats_are_refused(place, capsys):
    """A directory with two formats is refused: taking one of them would leave text out."""
    Path("in").mkdir()
    Path("in/LICENSE.txt").write_text("free")
    Path("in/a.parquet").write_bytes(parquet(TEXTS, 7))
    Path("in/README.md").write_text("# about")
    code, _, err = command(capsys, "in")

    assert code == 2
    assert "Parquet 1, text 1" in err
    assert command(capsys, "in/*.parquet")[0] == 0


def test_the_recipe(place, capsys):
    """The recipe has formats and fields, lists files by sha256, and other fields are another recipe."""
    Path("in").mkdir()
    Path("in/a.jsonl").write_bytes(as_lines(["one", "two"], more="same text"))
    Path("in/b.jsonl.gz").write_bytes(gzip.compress(as_lines(["three"], more="x")))
    _, made, _ = command(capsys, "in")
    again = command(capsys, "in")
    other = command(capsys, "in", "--text-field", "more")
    recipe = made["recipe"]

    assert recipe["formats"] == {"jsonl": 1, "jsonl.gz": 1}
    assert recipe["options"]["rows"] == {"text_field": "text", "id_field": None, "on_bad_row": "fail"}
    assert recipe["inputs"]["documents"] == 3
    assert (again[0], again[1]["already"]) == (0, True)
    assert other[0] == 2
    assert "options.rows.text_field: text -> more" in other[2]
    subprocess.run(["sha256sum", "--check", "--quiet", "../out/sources.sha256"], cwd="in", check=True)


@pytest.mark.parametrize("option", [("--text-field", "a"), ("--id-field", "a"), ("--on-bad-row", "skip")])
def test_row_options_need_rows(place, capsys, option):
    """Options about rows are refused for whole documents; so is a wrong value."""
    Path("a.txt").write_text("x")

    assert command(capsys, "a.txt", *option)[0] == 2
    assert command(capsys, "a.txt", "--on-bad-row", "ignore")[0] == 2
    assert command(capsys, "a.txt", "--max-document", "0")[0] == 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.parquet"])
def test_changed_between_the_readings(place, name):
    """A row that changes, goes or comes between the two readings is found."""
    make = {
        "a.jsonl": as_lines,
        "a.jsonl.zst": lambda texts: frames(as_lines(texts), 20),
        "a.parquet": lambda texts: parquet(texts, 2),
    }[name]
    Path(name).write_bytes(make(["one", "two", "three"]))
    corpus = read_corpus([Path(name)])
    for texts in (
        ["one", "TWO", "three"],
        ["one", "two"],
        ["one", "two", "three", "four"],
        ["one", "two", "a\0"],
    ):
        Path(name).write_bytes(make(texts))
        with pytest.raises(InputError, match="changed"):
            list(corpus.read())


@pytest.mark.parametrize(("name", "package"), [("a.parquet", "pyarrow"), ("a.jsonl.zst", "zstandard")])
def test_a_missing_package_is_named(place, monkeypatch, name, package):
    """Without the package of a format, the error names it and the pip line."""
    Path(name).write_bytes(parquet(TEXTS, 7) if package == "pyarrow" else frames(LINES, 777))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RefusedError, match=package) as refused:
        read_corpus([Path(name)])

    assert "pip install" in refused.value.hints[0]


def test_control_tokens_in_rows(place, capsys):
    """A document that spells a control token is said, counted, and has one end."""
    Path("a.jsonl").write_bytes(as_lines(["one <|endoftext|> two", "three"]))
    code, made, err = command(capsys, "a.jsonl", "--val-fraction", 0)
    ids = np.fromfile("out/train-00000.bin", "<u2").tolist()

    assert code == 0
    assert made["recipe"]["text"]["documents_with_control_names"] == 1
    assert "first is a.jsonl, row 1 (<|endoftext|>)" in err
    assert ids.count(256) == 2


def test_memory_is_bounded_by_rows(place, monkeypatch):
    """However rows are grouped, few are decoded at a time, and gzip and zstandard give bounded blocks."""
    monkeypatch.setattr(columnar, "BATCH_ROWS", 3)
    monkeypatch.setattr(json_lines, "BLOCK_BYTES", 100)
    seen = []
    rows_of = columnar._rows_of
    monkeypatch.setattr(
        columnar, "_rows_of", lambda b, *more: (seen.append(b.num_rows), rows_of(b, *more))[1]
    )
    for name in ("one.parquet", "file.arrow", "one.jsonl.gz"):
        Path(name).write_bytes(SAME_TEXT[name])
        assert read_corpus([Path(name)]).n_documents == len(TEXTS) - 2
    blocks = list(decompressed(io.BytesIO(SAME_TEXT["one.jsonl.gz"]), "gzip"))

    assert max(seen) == 3
    assert max(map(len, blocks)) == 100
