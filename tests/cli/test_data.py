"""`llmrun data`: what it prints, and every bad input with its message and exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmrun.cli.app import run


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
    Path("notes.md").write_text("text")
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
    assert err == "reading 0.0 MB\ntokenizing 0.0 MB\n"


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
    assert damaged[2].splitlines()[1].startswith("  Caused by: train-00001.bin has sha256 ")
    assert damaged_json[0] == 1
    assert [d["file"] for d in json.loads(damaged_json[1])["damaged"]] == ["train-00001.bin"]


ACCEPTED = "\nhint: accepted are files that end in .txt, and directories that hold some\n"
MAKE = "\nhint: make a dataset with `llmrun data prepare INPUT… --out DIR --tokenizer bpe`\n"
BAD = {
    "data prepare missing --out o --tokenizer byte": "error: the input missing does not exist\n" + ACCEPTED,
    "data prepare notes.md --out o --tokenizer byte": "error: the input notes.md does not end in .txt\n" + ACCEPTED,
    "data prepare none --out o --tokenizer byte": "error: the directory none holds no .txt file\n" + ACCEPTED,
    "data prepare blank --out o --tokenizer byte": "error: the input has no text: 1 document, all empty\n",
    "data prepare bad --out o --tokenizer byte": "error: bad/latin.txt is not UTF-8: byte 0xe9 at offset 3\n\nhint: convert it, for example with `iconv -f ISO-8859-1 -t UTF-8`, or leave it out\n",
    "data prepare corpus --out corpus --tokenizer byte": "error: --out corpus exists and is not a sound dataset\n  Caused by: corpus is not a dataset: it has no dataset.json\n\nhint: choose another --out, or remove it\n",
    "data prepare corpus --out notes.md --tokenizer byte": "error: --out notes.md exists and is not a sound dataset\n  Caused by: notes.md is a file, not a dataset directory\n\nhint: choose another --out, or remove it\n",
    "data prepare corpus --out o --tokenizer bep": "error: cannot read the tokenizer bep: No such file or directory\n\nhint: --tokenizer takes `byte`, `bpe`, or the path of a tokenizer.json\n",
    "data prepare corpus --out o --tokenizer no.json": "error: no.json is not a tokenizer.json of Hugging Face's tokenizers\n  Caused by: Model missing. at line 1 column 2\n",
    "data prepare corpus --out o --tokenizer byte --vocab-size 300": "error: --vocab-size goes with `--tokenizer bpe`; any other tokenizer has its own size\n\nhint: leave --vocab-size out\n",
    "data prepare corpus --out o --tokenizer bpe --vocab-size 256": "error: --vocab-size must lie in 257 … 16Mi, not 256\n\nhint: 257 is the 256 bytes and the token that ends a document\n",
    "data prepare corpus --out o --tokenizer bpe --vocab-size many": "error: --vocab-size must be a quantity such as 524288, 512Ki, 0.5M, 1T or 1e12\n  --> --vocab-size many\n",
    "data prepare corpus --out o --tokenizer bpe --vocab-size 0.3K1": "error: --vocab-size must be a quantity such as 524288, 512Ki, 0.5M, 1T or 1e12\n  --> --vocab-size 0.3K1\n",
    "data prepare corpus --out o --tokenizer byte --shard-tokens 0": "error: --shard-tokens must be at least 1, not 0\n",
    "data prepare corpus --out o --tokenizer byte --shard-tokens 1.5": "error: --shard-tokens must be whole, not 1.5\n  --> --shard-tokens 1.5\n",
    "data prepare corpus --out o --tokenizer byte --val-fraction 1": "error: --val-fraction must be at least 0 and less than 1, not 1.0\n\nhint: the default is `--val-fraction 0.01`\n",
    "data prepare corpus --out o --tokenizer byte --val-fraction nan": "error: --val-fraction must be at least 0 and less than 1, not nan\n\nhint: the default is `--val-fraction 0.01`\n",
    "data prepare corpus --out o --tokenizer byte --eot </s>": "error: --eot goes with a tokenizer.json; `--tokenizer byte` has its own token for the end\n\nhint: leave --eot out\n",
    "data prepare corpus --out o": "error: missing option '--tokenizer'\n\nhint: `llmrun data prepare --help` shows what it takes\n",
    "data check missing": "error: there is no dataset directory missing\n" + MAKE,
    "data check corpus": "error: corpus is not a dataset: it has no dataset.json\n" + MAKE,
    "data check notes.md": "error: notes.md is a file, not a dataset directory\n" + MAKE,
    "data show missing": "error: there is no dataset directory missing\n" + MAKE,
    "data show ds --window 99 --L-ctx 29": "error: the split val has 2 windows of L_ctx = 29; there is no window 99\n\nhint: the last one is `--window 1`\n",
    "data show ds --window -1": "error: --window must be at least 0, not -1\n",
    "data show ds --window 0 --split test": "error: --split must be train or val, not 'test'\n",
    "data show ds --window 0 --L-ctx 0": "error: --L-ctx must be at least 1, not 0\n",
    "data show ds --window 0 --L-ctx 1Mi": "error: the split val has 59 tokens; one window takes L_ctx + 1 = 1,048,577\n  --> ds\n\nhint: lower L_ctx, or prepare the dataset with a larger --val-fraction\n",
}  # fmt: skip


@pytest.mark.parametrize("line", BAD)
def test_bad_input(place, capsys, line):
    """Every bad input ends with 2 and its message, prints nothing on stdout and leaves nothing behind."""
    call(capsys, PREPARE)
    before = sorted(path.name for path in place.iterdir())
    code, out, err = call(capsys, line)
    progress = ("reading ", "tokenizing ", "training ")
    message = "".join(said for said in err.splitlines(keepends=True) if not said.startswith(progress))

    assert (code, out) == (2, "")
    assert message == BAD[line]
    assert sorted(path.name for path in place.iterdir()) == before


def test_error_as_json(place, capsys):
    """With --json an error is one JSON object on stderr."""
    code, out, err = call(capsys, "data check missing --json")

    assert (code, out) == (2, "")
    assert json.loads(err)["error"] == "there is no dataset directory missing"


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
