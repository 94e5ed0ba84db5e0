"""Which files become documents, and what is not text: the table in docs/data-format.md, by the real command."""

import gzip
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from llmrun.cli.app import run
from llmrun.data.manifest import read_manifest
from llmrun.data.tokenizers import load_tokenizer


def prepare(capsys, *inputs, out="out", more=()):
    """Exit code, recipe (None after a refusal) and stderr of `llmrun data prepare`."""
    arguments = ["data", "prepare", *map(str, inputs), "--out", str(out), "--tokenizer", "byte"]
    code = run([*arguments, "--val-fraction", "0", *more, "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out)["recipe"] if code == 0 else None, captured.err


def text_in(dataset):
    """The training split as text."""
    manifest = read_manifest(Path(dataset))
    ids = np.concatenate([np.fromfile(Path(dataset, s.name), "<u2") for s in manifest.splits["train"].shards])
    return load_tokenizer(Path(dataset), manifest).decode(ids.tolist())


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with the corpus `texts` of one document."""
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("one")
    return tmp_path


UNMEANT = [
    *["a.txt~", ".a.txt.swp", "a.txt.swo", ".#a.txt", "#a.txt#", "~$a.txt", "Thumbs.db", "desktop.ini"],
    *[".DS_Store", "._a.txt", ".hidden.txt", ".git/a.txt", ".ipynb_checkpoints/a-checkpoint.txt"],
    *["__MACOSX/b.txt", "lost+found/c.txt", "notes.md", "data.csv", "README"],
]


def test_unmeant_files_are_left_out_and_counted(place, capsys):
    """Leftovers, hidden names, other endings and links: left out of the text, counted on screen and in the recipe."""
    for name in UNMEANT:
        Path("texts", name).parent.mkdir(exist_ok=True)
        Path("texts", name).write_text("not meant")
    Path("texts/loop").symlink_to(".")
    Path("texts/gone.txt").symlink_to("nowhere")
    Path("texts/self.txt").symlink_to("self.txt")
    Path("texts/empty.txt").write_text("")
    Path("texts/b.txt").symlink_to("a.txt")
    os.link("texts/a.txt", "texts/c.txt")
    Path("other.txt").write_text("two")
    Path("texts/d.txt").symlink_to("../other.txt")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("texts/socket.txt")
        code, recipe, err = prepare(capsys, "texts", "texts/a.txt")

    assert code == 0
    assert text_in("out") == "one<|endoftext|>two<|endoftext|>"
    assert recipe["left_out"] == {
        "hidden": 7,
        "leftovers": 8,
        "other_endings": 3,
        "directory_links": 1,
        "broken_links": 2,
        "special_files": 1,
        "duplicates": 3,
        "empty": 1,
    }
    assert "hidden names 7" in err
    assert ".csv 1" in err


def test_a_pipe_never_hangs(place):
    """A FIFO in a directory, as an input, as a tokenizer or as a dataset's manifest: said within seconds."""
    os.mkfifo("texts/pipe.txt")
    Path("ds").mkdir()
    os.mkfifo("ds/dataset.json")
    command = [sys.executable, "-m", "llmrun", "data", "prepare"]
    cases = {
        0: ["texts", "--out", "out", "--tokenizer", "byte"],
        2: ["texts/pipe.txt", "--out", "out2", "--tokenizer", "byte"],
        2.1: ["texts/a.txt", "--out", "out3", "--tokenizer", "texts/pipe.txt"],
        2.2: ["texts/a.txt", "--out", "ds", "--tokenizer", "byte"],
    }
    processes = {
        code: subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
        for code, arguments in cases.items()
    }
    try:
        ended = {code: process.communicate(timeout=60) for code, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()

    assert [process.returncode for process in processes.values()] == [0, 2, 2, 2], ended
    assert text_in("out") == "one<|endoftext|>"


def _archive(kind):
    """An archive, an image or a table under the name of a text."""
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("a.txt", "text")
    elif kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as file:
            file.addfile(tarfile.TarInfo("a.txt"))
    elif kind == "npy":
        np.save(buffer, np.arange(9))
    return buffer.getvalue()


ENGLISH = "Dear reader, this is a letter.\n"
NOT_TEXT = {
    "utf16": (ENGLISH.encode("utf-16"), "UTF-16"),
    "utf16be": (b"\xfe\xff" + ENGLISH.encode("utf-16-be"), "UTF-16"),
    "utf32": (ENGLISH.encode("utf-32"), "UTF-32"),
    "unmarked16": (ENGLISH.encode("utf-16-le"), "UTF-16LE"),
    "unmarked16be": (ENGLISH.encode("utf-16-be"), "UTF-16BE"),
    "unmarked32": (ENGLISH.encode("utf-32-le"), "UTF-32LE"),
    "accented16": ("é".encode("utf-16-le") + ENGLISH.encode("utf-16-le"), "UTF-16LE"),
    "latin1": ("caf\xe9".encode("latin-1"), "0xe9 at offset 3"),
    "latin1_after_mark": (b"\xef\xbb\xbfcaf\xe9", "0xe9 at offset 6"),
    "gbk": ("数据".encode("gbk"), "not UTF-8"),
    "nul": (b"a\0b", "NUL at offset 1"),
    "gzip": (gzip.compress(b"text"), "gzip"),
    "zip": (_archive("zip"), "zip"),
    "tar": (_archive("tar"), "tar"),
    "numpy": (_archive("npy"), "NumPy"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "PNG"),
    "parquet": (b"PAR1\x15\0\x15\x1c,\x15\0PAR1", "Parquet"),
    "pdf": (b"%PDF-1.7\n1 0 obj\n", "PDF"),
    "rtf": (b"{\\rtf1\\ansi hello}", "RTF"),
}


@pytest.mark.parametrize("kind", NOT_TEXT)
def test_not_text_is_refused(place, capsys, kind):
    """A file that is not text is refused with its name and what it is; nothing is made."""
    content, words = NOT_TEXT[kind]
    Path("texts/b.txt").write_bytes(content)
    code, _, err = prepare(capsys, "texts")

    assert code == 2
    assert "texts/b.txt" in err
    assert words in err
    assert not Path("out").exists()


def test_marks_and_line_ends(place, capsys):
    """A byte-order mark at the beginning goes, one elsewhere stays; line ends stay; each is counted."""
    Path("texts/a.txt").write_bytes("\ufeffone\r\n\ufefftwo\rthree\n\x1b[0m".encode())
    Path("texts/b.txt").write_bytes("\ufeff".encode())
    code, recipe, err = prepare(capsys, "texts")

    assert code == 0
    assert text_in("out") == "one\r\n\ufefftwo\rthree\n\x1b[0m<|endoftext|>"
    assert recipe["text"] == {"byte_order_marks_removed": 2, "documents_with_crlf": 1}
    assert recipe["left_out"]["empty"] == 1
    assert "CRLF" in err
    subprocess.run(["sha256sum", "--check", "--quiet", "../out/sources.sha256"], cwd="texts", check=True)


def test_given_names_are_taken(place, capsys):
    """The rules for names are for what is found in directories: a hidden file or directory that is given is meant."""
    Path(".private").mkdir()
    Path(".private/x.txt").write_text("x")
    Path(".y.txt").write_text("y")
    Path("link").symlink_to(".private")
    code, recipe, _ = prepare(capsys, ".private", ".y.txt", "link")

    assert code == 0
    assert text_in("out") == "x<|endoftext|>y<|endoftext|>"
    assert recipe["left_out"] == {"duplicates": 1}


def test_output_inside_the_input(place, capsys):
    """A dataset inside its own input directory is not read; doing it again finds the same recipe."""
    first = prepare(capsys, "texts", out="texts/ds")
    again = prepare(capsys, "texts", out="texts/ds")

    assert first[0] == again[0] == 0
    assert first[1] == again[1]
    assert first[1]["left_out"] == {}
