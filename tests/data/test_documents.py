"""Documents: which files, in which order, and what cannot be one."""

import os
from pathlib import Path

import pytest

from llmrun.data.documents import printable_name, read_corpus
from llmrun.data.input_files import find_files
from llmrun.errors import InputError


def test_order(tmp_path):
    """Inputs stay in the order given; a directory is sorted by relative name, byte by byte."""
    for name in ("b/z.txt", "b.txt", "a/10.txt", "a/9.txt", "Z.txt", "é.txt", "a/notes.md"):
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    last = tmp_path / "last.TXT"
    last.write_text("x")
    names = [name for _, name in find_files([last, tmp_path / "corpus"]).files]

    assert names == ["last.TXT", "Z.txt", "a/10.txt", "a/9.txt", "b.txt", "b/z.txt", "é.txt"]


def test_corpus_counts(tmp_path):
    """Empty documents are left out, identical ones kept, and both are counted."""
    for name, content in {"a": b"same", "b": b"", "c": b"same", "d": b"other", "e": b""}.items():
        (tmp_path / f"{name}.txt").write_bytes(content)
    corpus = read_corpus([tmp_path])

    assert [(d.name, d.bytes) for d in corpus.read()] == [("a.txt", 4), ("c.txt", 4), ("d.txt", 5)]
    assert (corpus.counts["empty"], corpus.n_identical, corpus.n_bytes) == (2, 1, 13)


def test_links(tmp_path):
    """A link to a file is a document, links to directories are not followed, dangling ones are no files."""
    (tmp_path / "elsewhere").write_text("text")
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").symlink_to("elsewhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.txt").symlink_to("nowhere")

    assert [name for _, name in find_files([tmp_path]).files] == ["a.txt", "b.txt"]


def test_pipes(tmp_path):
    """Nothing that is not a regular file is opened: a pipe would wait for ever."""
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(InputError) as refused:
        find_files([tmp_path / "pipe.txt"])

    assert [name for _, name in find_files([tmp_path]).files] == ["a.txt"]
    assert "regular file" in refused.value.message
    assert f"{tmp_path}/pipe.txt" in refused.value.message


def test_bytes_are_kept(tmp_path):
    """Line ends, control characters other than NUL and a mark that is not the first character stay as they are."""
    content = "one\ufeff\r\ntwo\rthree\n\x1b[0m".encode()
    (tmp_path / "a.txt").write_bytes(content)

    assert [d.text.encode() for d in read_corpus([tmp_path]).read()] == [content]


def test_names_are_one_line(tmp_path):
    """A name that is not UTF-8, or has control characters, is listed in escapes."""
    (tmp_path / "a\nb\x1b.txt").write_text("x")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_text("y")

    assert [d.name for d in read_corpus([tmp_path]).read()] == ["a\\nb\\x1b.txt", "\\udcff.txt"]
    assert printable_name("über/数据.txt") == "über/数据.txt"


def test_changed_meanwhile(tmp_path):
    """A file that changes between two readings is named."""
    (tmp_path / "a.txt").write_text("one")
    corpus = read_corpus([tmp_path])
    (tmp_path / "a.txt").write_text("two")
    with pytest.raises(InputError) as refused:
        list(corpus.read())

    assert refused.value.message.startswith(f"{tmp_path}/a.txt changed")


def test_all_problems_at_once(tmp_path):
    """All files that are not UTF-8 are named in one error, up to ten of them."""
    for number in range(14):
        (tmp_path / f"{number:02d}.txt").write_bytes(b"ok" if number < 2 else b"caf\xe9")
    with pytest.raises(InputError) as refused:
        read_corpus([tmp_path])

    assert "12 of 14" in refused.value.message
    assert f"{tmp_path}/02.txt" in refused.value.caused_by[0]
    assert "0xe9 at offset 3" in refused.value.caused_by[0]
    assert len(refused.value.caused_by) == 11
    assert len(refused.value.hints) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden(tmp_path):
    """A file that may not be read is named."""
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(InputError) as refused:
        read_corpus([tmp_path])

    assert refused.value.message == f"cannot read {tmp_path}/a.txt: Permission denied"


def test_reports(tmp_path):
    """Reading reports how many bytes are done."""
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("three")
    seen = []
    read_corpus([tmp_path], lambda *report: seen.append(report))

    assert seen == [("reading", 3, 8), ("reading", 8, 8)]
