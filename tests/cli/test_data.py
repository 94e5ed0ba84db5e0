"""`llmrun data`: what it prints, and every bad input with its message and exit code."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from error_cases import (
    assert_carries,
    assert_readable,
    is_writing,
    lines_of_error,
    read_cases,
    write_expectation,
)
from llmrun.cli.app import run
from llmrun.cli.console import render_error
from llmrun.errors import error_of

FILE = Path(__file__).with_name("bad_data.txt")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a corpus of 120 documents and things that are none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    Path("corpus").mkdir()
    for number in range(120):
        Path(f"corpus/{number:03d}.txt").write_text(f"Document {number}: " + "words and more " * (number % 9))
    Path("bad").mkdir()
    Path("bad/latin.txt").write_bytes(b"caf\xe9")
    Path("blank").mkdir()
    Path("blank/a.txt").write_bytes(b"")
    Path("none").mkdir()
    Path("notes.csv").write_text("text")
    Path("no.json").write_text("{}")
    return tmp_path


def call(capsys, line):
    """Exit code, stdout and stderr of one command line."""
    arguments = line.split()
    code = run(arguments, as_json="--json" in arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


PREPARE = "data prepare corpus --out ds --tokenizer byte"


def test_prepare(place, capsys):
    """Preparing prints the dataset as a table; the last line says where it lies."""
    code, out, err = call(capsys, f"{PREPARE} --val-fraction 0.1 --shard-tokens 4Ki")

    assert code == 0
    assert (
        out
        == """\
dataset    ds
tokenizer  byte, 257 tokens, 256 ends a document, uint16

split             tokens     documents       bytes of text  bytes/token  shards
train              7,734           107               7,627         0.99       2
val                1,021            13               1,008         0.99       1
validation has 11.66 % of the tokens, 10.00 % asked for

train  stream b2d35e11917d781a47a811cff4b74cf08d4b9d088d5812b03fb28e202fbaca4b
val    stream 3eda7b5e1a5c82172fb236674bca8093a512f1455660ff21c7877bb0070150a2

next: set `data.path: ds` in a config, then `llmrun plan CONFIG`
made: ds
"""
    )
    assert err == "reading: 8.63 kB\ntokenizing: 8.63 kB\n"


def test_prepare_json(place, capsys):
    """With --json stdout is one document; doing it again says that it is there already."""
    code, out, _ = call(capsys, f"{PREPARE} --json")
    again_code, again, _ = call(capsys, f"{PREPARE} --json")
    shown = json.loads(call(capsys, "data show ds --json")[1])
    made = json.loads(out)

    assert code == again_code == 0
    assert made["already"] is False
    assert json.loads(again) == {**made, "already": True}
    assert shown == {name: value for name, value in made.items() if name != "already"}
    assert made["splits"]["train"]["documents"] + made["splits"]["val"]["documents"] == 120


def test_prepare_again(place, capsys):
    """The same recipe again ends well and says so last."""
    call(capsys, PREPARE)
    code, out, _ = call(capsys, PREPARE)

    assert code == 0
    assert out.splitlines()[-1] == "already there: ds"


def test_notes(place, capsys):
    """What is unusual is noted on stderr."""
    code, _, err = call(capsys, "data prepare corpus/008.txt corpus/007.txt --out few --tokenizer byte")

    assert code == 0
    assert err.splitlines()[-1] == (
        "note: fewer than 100 documents (2): the validation split is the last 0.01 of the token stream"
    )


def test_show(place, capsys):
    """Without a window the table, with one its text."""
    call(capsys, "data prepare corpus --out ds --tokenizer bpe --vocab-size 300 --val-fraction 0.2")
    table = call(capsys, "data show ds")
    text = call(capsys, "data show ds --split train --window 0 --L-ctx 16")
    as_json = json.loads(call(capsys, "data show ds --split train --window 0 --L-ctx 16 --json")[1])

    assert table[0] == text[0] == 0
    assert table[1].startswith("dataset    ds\ntokenizer  bpe, 286 tokens, 0 ends a document, uint16\n")
    assert text[1] == "Document 0: <|endoftext|>Document 2: words and more words and more <|endoftext|>\n"
    assert as_json["text"] + "\n" == text[1]
    assert (as_json["window"], as_json["L_ctx"], len(as_json["ids"])) == (0, 16, 17)


def test_show_is_safe(place, capsys):
    """A corpus cannot drive the terminal."""
    Path("esc.txt").write_text("\x1b[2Jhidden\x07 " * 9)
    call(capsys, "data prepare esc.txt --out esc --tokenizer byte")
    _, out, _ = call(capsys, "data show esc --split train --window 0 --L-ctx 8")

    assert out == "\\x1b[2Jhidde\n"


def test_check(place, capsys):
    """A sound dataset ends with 0, a damaged one with 1 and the names of the files."""
    call(capsys, f"{PREPARE} --shard-tokens 4Ki")
    sound = call(capsys, "data check ds")
    sound_json = call(capsys, "data check ds --json")
    shard = Path("ds/train-00001.bin")
    shard.write_bytes(b"\0\0" + shard.read_bytes()[2:])
    damaged = call(capsys, "data check ds")
    damaged_json = call(capsys, "data check ds --json")

    assert sound == (0, "sound: ds (4 files checked)\n", "")
    assert sound_json[0] == 0
    assert json.loads(sound_json[1]) == {"sound": True, "damaged": []}
    assert damaged[:2] == (1, "")
    assert damaged[2].splitlines()[0] == "error: the dataset ds is damaged: 1 problem"
    assert damaged[2].splitlines()[1].startswith("  Caused by: train-00001.bin ")
    assert damaged_json[0] == 1
    assert [d["file"] for d in json.loads(damaged_json[1])["damaged"]] == ["train-00001.bin"]


CASES = read_cases(FILE)


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_bad_input(place, capsys, case):
    """Every bad input ends with 2 and its error, prints nothing on stdout and leaves nothing behind."""
    call(capsys, PREPARE)
    before = sorted(path.name for path in place.iterdir())
    code = run(shlex.split(case.given)[2:], as_json=True)
    captured = capsys.readouterr()
    error = json.loads(captured.err[captured.err.index("{\n") :])
    lines = [f"exit {code}", *lines_of_error(error, case.given)]

    assert captured.out == ""
    assert sorted(path.name for path in place.iterdir()) == before
    if is_writing():
        write_expectation(FILE, case.title, lines=lines)
        return
    assert_carries(lines, case.expected)
    assert_readable(render_error(error_of(error)))


def test_error_as_json(place, capsys):
    """With --json an error is one JSON object on stderr."""
    code, out, err = call(capsys, "data check missing --json")

    assert (code, out) == (2, "")
    assert json.loads(err)["kind"] == "input"


def test_help_is_quick_and_complete(capsys):
    """Help names every option and the exit codes, and needs neither numpy nor tokenizers."""
    script = (
        "import sys\nfrom llmrun.cli.app import run\nrun(['data', 'prepare', '--help'])\n"
        "print(sorted({'numpy', 'tokenizers', 'torch', 'rich.console'} & set(sys.modules)))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )

    for option in ("--out", "--tokenizer", "--vocab-size", "--val-fraction", "--shard-tokens", "--eot"):
        assert option in done.stdout
    assert "Exit codes:" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
