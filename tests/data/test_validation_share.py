"""The share of the text that validation gets: beside the one asked for, and refused if it is absurd."""

import hashlib
import json
from pathlib import Path

import pytest

from llmrun.cli.app import run

CONFIG = """
model: {n_layers: 1, d_model: 16, n_heads: 2}
batch: {GB_tok: 64, mu_tok: 64, L_ctx: 16, V: 1}
T_tokens: 640
schedule: {warmup_tokens: 64}
data: {path: out}
hardware: {device: cpu}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with 120 documents of 40 to 60 bytes."""
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    for number in range(120):
        Path(f"texts/{number:03}.txt").write_text(f"document {number:03} " + "x" * (30 + number % 20))
    return tmp_path


def prepare(capsys, *more):
    """Exit code, stdout and stderr of preparing `texts`."""
    code = run(["data", "prepare", "texts", "--out", "out", "--tokenizer", "byte", *more])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def lowest_hash():
    """The document that is validation whatever the fraction."""
    return min(Path("texts").iterdir(), key=lambda path: hashlib.sha256(path.read_bytes()).digest())


def test_the_share_is_shown(place, capsys):
    """The share in tokens stands beside the one asked for, on screen and in JSON."""
    code, out, _ = prepare(capsys, "--val-fraction", "0.1")
    shown = json.loads((run(["data", "show", "out", "--json"]), capsys.readouterr().out)[1])
    splits = shown["splits"]
    share = splits["val"]["tokens"] / (splits["val"]["tokens"] + splits["train"]["tokens"])

    assert code == 0
    assert shown["val_share"] == {"asked": 0.1, "got": round(share, 6)}
    assert f"{100 * share:.2f} %" in out
    assert "10.00 %" in out


@pytest.mark.parametrize("n_bytes", [1200, 900_000])
def test_an_absurd_share_is_refused(place, capsys, n_bytes):
    """One large document that falls to validation: more than 5 points above what was asked for is refused."""
    target = lowest_hash()
    name, number = target.name, 0
    while True:  # a large text whose hash is the lowest of all
        target.write_text(f"{number} " + "y" * n_bytes)
        if lowest_hash().name == name:
            break
        number += 1
    code, _, err = prepare(capsys)

    assert code == 2
    assert "--val-fraction" in err
    assert not Path("out").exists()
    assert prepare(capsys, "--val-fraction", "0")[0] == 0


def test_nothing_to_train_on_is_refused(place, capsys):
    """120 equal documents that all fall to validation leave nothing to train on."""
    for path in Path("texts").iterdir():
        path.write_text("always the same text")
    code, _, err = prepare(capsys, "--val-fraction", "0.999")

    assert code == 2
    assert "train" in err
    assert not Path("out").exists()


def test_more_validation_windows_than_there_are(place, capsys):
    """A stated eval.windows above the split's is refused by the plan; the default means at most as many."""
    prepare(capsys)
    Path("x.yaml").write_text(CONFIG)
    usual = run(["plan", "x.yaml"])
    capsys.readouterr()
    stated = run(["plan", "x.yaml", "--set", "eval.windows=50"])
    err = capsys.readouterr().err
    fits = run(["plan", "x.yaml", "--set", "eval.windows=1"])
    unused = run(["plan", "x.yaml", "--set", "eval.windows=50", "--set", "eval.every_steps=null"])

    assert (usual, stated, fits, unused) == (0, 2, 0, 0)
    assert "eval.windows" in err
    assert "windows of L_ctx = 16" in err
