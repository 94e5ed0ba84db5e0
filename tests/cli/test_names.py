"""Names that are not UTF-8, too long, full of quotes, or gone: in every locale, an answer and never a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmrun.text import command, printable, quoted

STRANGE = os.fsdecode(b'caf\xe9 $HOME\'s\n"x"')
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
CONFIG = """
name: demo
T_tokens: 2Ki
model: {n_layers: 1, d_model: 32, n_heads: 2}
batch: {GB_tok: 512, μ_tok: 128, L_ctx: 64, D: 1, V: 4}
data: {path: données, num_workers: 0}
hardware: {device: cpu}
"""


@pytest.fixture
def place(tmp_path) -> Path:
    """A working directory with a strange name, a config and a text with another one."""
    place = tmp_path / STRANGE
    (place / "texts").mkdir(parents=True)
    (place / "texts" / f"{STRANGE}.txt").write_text("a line of a text\n" * 400)
    (place / "texts" / "é.txt").write_text("another line of text\n" * 400)
    (place / "demo.yaml").write_text(CONFIG, encoding="utf-8")
    (place / "long.yaml").write_text(CONFIG.replace("données", "x" * 300))
    return place


def llmrun(place: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """A command line in a C locale.  Its streams are bytes."""
    environment = {**os.environ, **C_LOCALE, "GIT_CEILING_DIRECTORIES": str(place.parent), **variables}
    command_line = [sys.executable, "-m", "llmrun", *words]
    return subprocess.run(command_line, cwd=place, env=environment, capture_output=True, check=False)


def answered(done: subprocess.CompletedProcess[bytes], code: int) -> bytes:
    """The standard output of a command that ended with `code`, without a traceback, in UTF-8."""
    assert done.returncode == code, (done.stdout + done.stderr).decode(errors="replace")[-3000:]
    assert b"Traceback" not in done.stderr
    done.stderr.decode()
    done.stdout.decode()
    return done.stdout


def test_names_that_are_not_utf8(place):
    """Prepare, check, plan, list and show in such a directory; what is printed as JSON names the same files again."""
    answered(llmrun(place, "data", "prepare", "texts", "--out", "données", "--tokenizer", "byte"), 0)
    answered(llmrun(place, "data", "check", str(place / "données")), 0)
    answered(llmrun(place, "plan", str(place / "demo.yaml"), "--json"), 0)
    answered(llmrun(place, "runs", "list", "--runs-dir", STRANGE), 0)
    missing = answered(llmrun(place, "runs", "show", STRANGE, "--json"), 2)
    assert missing == b""
    answered(llmrun(place, "train", STRANGE), 2)
    answered(llmrun(place, STRANGE), 2)
    answered(llmrun(place, "train", "demo.yaml", "--run", STRANGE), 2)


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "demo.yaml", "--set", f"data.path={STRANGE}"],
        ["plan", "demo.yaml", "--set", os.fsdecode(b"data.path=\xff")],
        ["plan", "demo.yaml", "--set", os.fsdecode(b"\xff=1")],
        ["train", "demo.yaml", "--set", os.fsdecode(b"runs_dir=\xff")],
        ["data", "prepare", os.fsdecode(b"\xff"), "--out", "data", "--tokenizer", "byte"],
        ["verify", os.fsdecode(b"\xff"), os.fsdecode(b"\xfe")],
    ],
)
def test_arguments_that_are_not_utf8(place, words):
    """A config holds text: a value that is none is refused at the start; other names are just not there."""
    answered(llmrun(place, *words), 2)


@pytest.mark.parametrize(
    "words",
    [
        ["runs", "show", "x" * 300],
        ["resume", "x" * 300],
        ["train", "x" * 300],
        ["train", "long.yaml"],
        ["plan", "demo.yaml", "--set", f"data.path={'x' * 300}"],
        ["data", "prepare", "texts", "--out", "x" * 300, "--tokenizer", "byte"],
        ["data", "show", "x" * 300],
        ["checkpoints", "list", "x" * 300],
        ["verify", "x" * 300, "y" * 5000],
    ],
)
def test_names_that_are_too_long(place, words):
    """Longer than a file system allows."""
    done = llmrun(place, *words)
    answered(done, 2)
    assert b"too long" in done.stderr


def test_a_working_directory_that_was_deleted(place):
    """Every command says so; help needs none."""
    script = 'mkdir gone; cd gone; rmdir "$PWD"; exec "$@"'
    for words, code in ((["runs", "list"], 2), (["plan", str(place / "demo.yaml")], 2), (["--help"], 0)):
        run = ["sh", "-c", script, "sh", sys.executable, "-P", "-m", "llmrun", *words]
        done = subprocess.run(
            run, cwd=place, env={**os.environ, **C_LOCALE}, capture_output=True, check=False
        )
        answered(done, code)
        assert code == 0 or b"working directory" in done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "two words",
        "it's",
        "$(touch x)",
        "`x`",
        "a\nb",
        "tab\t",
        "日本",
        STRANGE,
        os.fsdecode(b"\xff\xfe"),
        "-n",
        "",
        "é\x1b[31m",
    ],
)
def test_a_printed_command_can_be_pasted(name):
    """Bash reads back exactly the name, and what is printed is one line of UTF-8."""
    text = command("printf", "%s", "--", name) if name.startswith("-") else command("printf", "%s", name)
    assert len(text.encode().splitlines()) == 1
    assert text.isprintable()
    done = subprocess.run(
        ["bash", "-c", text.replace("printf %s --", "printf -- %s")], capture_output=True, check=True
    )
    assert done.stdout == os.fsencode(name)
    assert printable(name).encode().decode().isprintable()


def test_a_path_is_never_read_as_an_option():
    """A directory may be called `-rf`."""
    assert command("llmrun", "resume", Path("-rf")) == "llmrun resume ./-rf"
    assert command("llmrun", "resume", "--D", "2") == "llmrun resume --D 2"
    assert quoted("a b") == "'a b'"


@pytest.mark.slow
def test_a_run_in_a_directory_that_is_not_utf8(place):
    """Train, sample, resume and list; the record names the working directory so that it is found again."""
    answered(llmrun(place, "data", "prepare", "texts", "--out", "données", "--tokenizer", "byte"), 0)
    trained = llmrun(place, "train", str(place / "demo.yaml"), "--run", "demo", "--until", "2", "--json")
    answered(trained, 0)
    record = json.loads((place / "runs/demo/run.json").read_text(encoding="utf-8"))
    assert os.fsencode(record["working_directory"]) == os.fsencode(place)
    runs = json.loads(answered(llmrun(place, "runs", "list", "--runs-dir", str(place / "runs"), "--json"), 0))
    assert os.fsencode(runs[0]["path"]) == os.fsencode(place / "runs" / "demo")
    (place / "runs" / "demo").rename(place / "runs" / STRANGE)
    answered(llmrun(place, "resume", str(place / "runs" / STRANGE)), 0)
    answered(llmrun(place, "sample", STRANGE, "--tokens", "3"), 0)
    answered(llmrun(place, "sample", STRANGE, "--prompt", os.fsdecode(b"\xff")), 2)
    answered(llmrun(place, "verify", STRANGE, str(place / "runs" / STRANGE)), 0)
