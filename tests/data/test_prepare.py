"""Preparing: the same text gives the same bytes, whole or not at all."""

import errno
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.core.token_stream import DTYPES
from llmrun.data import splits
from llmrun.data.check import check_dataset
from llmrun.data.manifest import read_manifest
from llmrun.data.prepare import prepare
from llmrun.data.splits import validation_documents
from llmrun.data.tokenizers import load_tokenizer
from llmrun.errors import InputError, RefusedError
from llmrun.storage.durable import Disk

from .conftest import text_of, write_corpus


def stream_of(dataset, split):
    """All tokens of a split."""
    manifest = read_manifest(dataset)
    dtype = DTYPES[manifest.dtype]
    shards = [np.fromfile(dataset / s.name, dtype=dtype) for s in manifest.splits[split].shards]
    return np.concatenate([np.zeros(0, dtype), *shards]).tolist()


def files_in(directory):
    """Name and content of every file."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def documents_of(corpus):
    """The texts in the order of their names."""
    return [p.read_bytes() for p in sorted(corpus.rglob("*.txt"), key=lambda p: str(p.relative_to(corpus)))]


def test_streams(corpus, tmp_path):
    """Each split is its documents in order, each followed by the token that ends it."""
    prepared = prepare([corpus], tmp_path / "out", "byte", val_fraction=0.1, shard_tokens=999)
    texts = documents_of(corpus)
    hashes = [hashlib.sha256(text).hexdigest() for text in texts]
    chosen = validation_documents(np.array([int(h[:16], 16) for h in hashes], np.uint64), 0.1)
    expected = {"train": [], "val": []}
    for text, is_val in zip(texts, chosen, strict=True):
        expected["val" if is_val else "train"] += [*text, 256]
    val = prepared.manifest.splits["val"]

    assert stream_of(tmp_path / "out", "train") == expected["train"]
    assert stream_of(tmp_path / "out", "val") == expected["val"]
    assert val.documents == chosen.sum() > 1
    assert val.bytes_of_text == val.tokens - val.documents
    assert not prepared.already
    assert prepared.notes == ()


@pytest.mark.parametrize("options", [{"tokenizer": "byte"}, {"tokenizer": "bpe", "vocab_size": 400}])
def test_same_bytes(corpus, tmp_path, options):
    """The same input twice gives byte-identical directories; a copy of the input elsewhere too."""
    (tmp_path / "deep/er").mkdir(parents=True)
    corpus.rename(tmp_path / "deep/er/moved")
    prepare([tmp_path / "deep/er/moved"], tmp_path / "a", **options)
    prepare([tmp_path / "deep/er/moved"], tmp_path / "b", **options)
    write_corpus(tmp_path / "copy", 120)
    prepare([tmp_path / "copy"], tmp_path / "c", **options)

    assert files_in(tmp_path / "a") == files_in(tmp_path / "b") == files_in(tmp_path / "c")
    assert check_dataset(tmp_path / "a") == []


@pytest.mark.parametrize("count", [5, 120])
def test_batching_changes_nothing(tmp_path, monkeypatch, count):
    """How much text is tokenized at a time changes nothing."""
    corpus = write_corpus(tmp_path / "corpus", count)
    prepare([corpus], tmp_path / "a", "bpe", vocab_size=300)
    monkeypatch.setattr(splits, "ENCODE_BYTES", 1)
    prepare([corpus], tmp_path / "b", "bpe", vocab_size=300)

    assert files_in(tmp_path / "a") == files_in(tmp_path / "b")


@pytest.mark.parametrize("shard_tokens", [1000, 34_591, 34_592])
def test_resharding(corpus, dataset, tmp_path, shard_tokens):
    """Other shards hold the same stream under the same digest."""
    prepare([corpus], tmp_path / "other", "byte", val_fraction=0.1, shard_tokens=shard_tokens)
    old, new = read_manifest(dataset).splits, read_manifest(tmp_path / "other").splits

    assert stream_of(tmp_path / "other", "train") == stream_of(dataset, "train")
    assert [s.tokens for s in new["train"].shards[:-1]] == [shard_tokens] * (len(new["train"].shards) - 1)
    assert len(new["train"].shards) == -(-old["train"].tokens // shard_tokens)
    assert new["train"].stream_digest == old["train"].stream_digest


@pytest.mark.parametrize("options", [{"tokenizer": "byte"}, {"tokenizer": "bpe", "vocab_size": 300}])
@pytest.mark.parametrize("count", [1, 7])
def test_few_documents(tmp_path, options, count):
    """Below 100 documents the validation split is the end of the stream, and that is said."""
    corpus = write_corpus(tmp_path / "corpus", count)
    whole = prepare([corpus], tmp_path / "whole", val_fraction=0, **options)
    prepared = prepare([corpus], tmp_path / "cut", val_fraction=0.3, shard_tokens=100, **options)
    train, val = prepared.manifest.splits["train"], prepared.manifest.splits["val"]
    everything = stream_of(tmp_path / "whole", "train")

    assert stream_of(tmp_path / "cut", "train") + stream_of(tmp_path / "cut", "val") == everything
    assert val.tokens == int(len(everything) * 0.3)
    assert train.documents + val.documents == count
    assert any("fewer than 100 documents" in note for note in prepared.notes)
    assert any("`eval.every_steps: null`" in note for note in whole.notes)
    assert sorted(path.suffix for path in (tmp_path / "cut").glob("spool*")) == []


@given(st.floats(0, 0.99))
def test_bytes_of_text(fraction):
    """With bytes as tokens, bytes and ends of documents add up on both sides of any cut."""
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name, "corpus")
        corpus.mkdir()
        texts = ["one two", "three", "x" * 40]
        for number, text in enumerate(texts):
            (corpus / f"{number}.txt").write_text(text)
        splits = prepare([corpus], Path(name, "out"), "byte", val_fraction=fraction).manifest.splits
        ends = {split: stream_of(Path(name, "out"), split).count(256) for split in splits}

    for split, record in splits.items():
        assert record.bytes_of_text == record.tokens - ends[split]


def test_recipe(corpus, tmp_path):
    """The recipe lists the inputs in the form of sha256sum, options and versions; no path, no time."""
    manifest = prepare([corpus], tmp_path / "out", "bpe", vocab_size=300).manifest
    listing = (tmp_path / "out/sources.sha256").read_bytes()
    checked = subprocess.run(
        ["sha256sum", "--check", "--quiet", tmp_path / "out/sources.sha256"], cwd=corpus, check=False
    )

    assert checked.returncode == 0
    assert manifest.recipe["inputs"] == {
        "file": "sources.sha256",
        "sha256": hashlib.sha256(listing).hexdigest(),
        "documents": 120,
        "bytes": sum(map(len, documents_of(corpus))),
    }
    assert manifest.recipe["options"] == {
        "tokenizer": {"kind": "bpe", "vocab_size": 300},
        "val_fraction": 0.01,
        "shard_tokens": 64 * 1024 * 1024,
    }
    assert set(manifest.recipe["versions"]) == {"llmrun", "python", "numpy", "tokenizers"}
    assert str(tmp_path) not in (tmp_path / "out/dataset.json").read_text()


def test_same_recipe_is_left_alone(corpus, dataset):
    """Preparing again what is there says so and touches nothing."""
    before = {path: path.stat().st_mtime_ns for path in dataset.iterdir()}
    again = prepare([corpus], dataset, "byte", val_fraction=0.1, shard_tokens=10_000)

    assert again.already
    assert again.manifest == read_manifest(dataset)
    assert {path: path.stat().st_mtime_ns for path in dataset.iterdir()} == before


def test_other_recipe_is_refused(corpus, dataset):
    """A dataset is never replaced: another recipe is refused with what differs."""
    (corpus / "new.txt").write_text("more")
    before = files_in(dataset)
    with pytest.raises(InputError) as refused:
        prepare([corpus], dataset, "bpe", vocab_size=300, shard_tokens=10_000)

    assert refused.value.exit_code == 2
    assert str(dataset) in refused.value.message
    assert [line.split(":")[0] for line in refused.value.caused_by] == [
        "inputs.bytes",
        "inputs.documents",
        "inputs.sha256",
        "options.tokenizer.kind",
        "options.tokenizer.vocab_size",
        "options.val_fraction",
    ]
    assert refused.value.caused_by[3:] == (
        "options.tokenizer.kind: byte -> bpe",
        "options.tokenizer.vocab_size: (absent) -> 300",
        "options.val_fraction: 0.1 -> 0.01",
    )
    assert files_in(dataset) == before


def test_large_vocabulary(corpus, tmp_path):
    """A vocabulary above 65,536 is stored as uint32 and reads the same."""
    prepare([corpus], tmp_path / "bpe", "bpe", vocab_size=300)
    content = json.loads((tmp_path / "bpe/tokenizer.json").read_text())
    extra = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["model"]["vocab"]["</far>"] = 70_000
    content["added_tokens"].append({"id": 70_000, "content": "</far>", **extra})
    (tmp_path / "far.json").write_text(json.dumps(content))
    manifest = prepare([corpus], tmp_path / "far", str(tmp_path / "far.json"), eot="</far>").manifest

    assert (manifest.dtype, manifest.tokenizer.kind) == ("uint32", "file")
    assert manifest.tokenizer.eot_id == manifest.tokenizer.vocab_size - 1
    assert check_dataset(tmp_path / "far") == []


def test_decodes_to_the_text(corpus, tmp_path):
    """What was prepared can be read back as text, documents parted by the end token."""
    prepare([corpus], tmp_path / "out", "bpe", vocab_size=300, val_fraction=0)
    tokenizer = load_tokenizer(tmp_path / "out", read_manifest(tmp_path / "out"))
    text = tokenizer.decode(stream_of(tmp_path / "out", "train"))

    assert text == "".join(document.decode() + "<|endoftext|>" for document in documents_of(corpus))


def test_notes(tmp_path):
    """Empty and identical documents, and a vocabulary that came out smaller, are said."""
    corpus = write_corpus(tmp_path / "corpus", 3)
    (corpus / "empty.txt").write_text("")
    (corpus / "twin.txt").write_text(text_of(1))
    notes = prepare([corpus], tmp_path / "out", "bpe", vocab_size=5000).notes

    assert notes[:2] == (
        "empty documents left out: 1",
        "documents identical to an earlier one, kept: 1",
    )
    assert "5,000" in notes[3]


class FullDisk(Disk):
    """A disk that is full at the n-th write, fsync or rename."""

    def __init__(self, operation, at, code):
        self.left, self.code = at, code
        original = getattr(self, operation)
        setattr(self, operation, lambda *arguments: self._count(original, arguments))

    def _count(self, original, arguments):
        self.left -= 1
        if self.left < 0:
            raise OSError(self.code, os.strerror(self.code))
        return original(*arguments)


def refused_at(corpus, out, disk):
    """The refusal of preparing on a disk; None where it succeeds."""
    try:
        prepare([corpus], out, "byte", val_fraction=0.1, shard_tokens=3000, disk=disk)
    except RefusedError as error:
        return error
    return None


@pytest.mark.parametrize("count", [5, 120])
@pytest.mark.parametrize("operation", ["write", "fsync", "rename"])
def test_full_disk(tmp_path, operation, count):
    """A disk that fills at any write, fsync or rename is said so, and nothing is left behind."""
    corpus = write_corpus(tmp_path / "corpus", count)
    place = tmp_path / "place"
    failures = 0
    while (
        refusal := refused_at(corpus, place / "out", FullDisk(operation, failures, errno.ENOSPC))
    ) is not None:
        assert f"{place}/out" in refusal.message
        assert list(place.iterdir()) == []
        failures += 1

    assert failures > {"write": 4, "fsync": 4, "rename": 0}[operation]
    assert check_dataset(place / "out") == []


def test_unwritable(corpus, tmp_path):
    """A place that cannot be written is named."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError) as refused:
        prepare([corpus], tmp_path / "file/out", "byte")

    assert f"{tmp_path}/file/out" in refused.value.message


def test_killed(corpus, tmp_path):
    """After SIGKILL on the way there is no dataset, and the next start removes what was left."""
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from llmrun.data.prepare import prepare; from llmrun.storage.durable import Disk\n"
        "class Killed(Disk):\n"
        "    def rename(self, old, new): os.kill(os.getpid(), signal.SIGKILL)\n"
        "prepare([Path(sys.argv[1])], Path(sys.argv[2]), 'byte', disk=Killed())\n"
    )
    place = tmp_path / "place"
    done = subprocess.run([sys.executable, "-c", script, corpus, place / "out"], check=False)
    left = [path.name for path in place.iterdir()]
    other = place / f".tmp-out-{platform.node()}-{os.getpid()}x"
    no_pid = place / f".tmp-out-{platform.node()}-99999999999999999999"
    other.mkdir()
    no_pid.mkdir()
    prepare([corpus], place / "out", "byte")

    assert done.returncode == -signal.SIGKILL
    assert len(left) == 1
    assert left[0].startswith(".tmp-out-")
    assert sorted(path.name for path in place.iterdir()) == sorted([other.name, no_pid.name, "out"])


def test_what_another_container_is_making_stays(corpus, tmp_path, monkeypatch):
    """Its PID is no process of ours, and it is not gone for that; a day later nobody works there any more."""
    place = tmp_path / "place"
    theirs = place / f".tmp-out-{'0' * 16}-4194000-1"
    old_version = place / f".tmp-out-{platform.node()}-4194000"
    for path in (theirs, old_version):
        path.mkdir(parents=True)
    prepare([corpus], place / "out", "byte")
    assert theirs.exists()
    assert old_version.exists()

    for path in (theirs, old_version):
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    prepare([corpus], place / "out2", "byte")
    assert theirs.exists()  # another dataset's
    shutil.rmtree(place / "out")
    prepare([corpus], place / "out", "byte")
    assert sorted(path.name for path in place.iterdir()) == ["out", "out2"]


@pytest.mark.parametrize(
    ("number", "stage"),
    [
        (signal.SIGTERM, "tokenizing"),
        (signal.SIGINT, "training the tokenizer"),
        (signal.SIGHUP, "merging"),
    ],
)
def test_a_signal_cleans_up(tmp_path, number, stage):
    """SIGTERM while shards are written, Ctrl-C and SIGHUP while a tokenizer is trained: gone within seconds."""
    text = tmp_path / "text.txt"
    words = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz ", k=3_000_000))
    text.write_text(words)
    tokenizer = "byte" if stage == "tokenizing" else "bpe"
    place = tmp_path / "place"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, stage, "data", "prepare", text, "--out", place / "out", "--tokenizer", tokenizer],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout.readline() == f"{stage}\n"
    begun_s = time.monotonic()
    process.send_signal(number)
    _, words = process.communicate(timeout=60)

    assert process.returncode == 128 + number
    assert words.splitlines()[-1] == f"stopped by {number.name}"
    assert time.monotonic() - begun_s < 5  # one second and what a busy machine adds
    assert list(place.iterdir()) == []


SLOW = """
import sys, time
from contextlib import nullcontext
import llmrun.cli.progress as progress
import llmrun.data.prepare as prepare
from llmrun.cli.app import main
wanted = sys.argv[1]
def report(stage, done, total):
    if stage == wanted:
        print(stage, flush=True)
        time.sleep(60)
progress.ProgressDisplay = lambda: nullcontext(report)
real = prepare.train_bpe
def train_bpe(pieces, *rest):
    pieces = list(pieces)
    print("merging", flush=True)
    return real([piece for piece in pieces for _ in range(4)], *rest)  # long, and without Python
if wanted == "merging":
    prepare.train_bpe = train_bpe
main(sys.argv[2:])
"""


def test_taken_meanwhile(corpus, tmp_path):
    """A dataset that somebody else makes meanwhile is not replaced."""

    def interfere(stage, _done, _total):
        if stage == "tokenizing":
            (tmp_path / "out").mkdir(exist_ok=True)

    with pytest.raises(InputError) as refused:
        prepare([corpus], tmp_path / "out", "byte", report=interfere)

    assert f"--out {tmp_path}/out" in refused.value.message
    assert list((tmp_path / "out").iterdir()) == []
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_input_changes_meanwhile(corpus, tmp_path, tokenizer):
    """A document that changes after it was hashed stops the work, and nothing is left behind."""

    def interfere(stage, done, total):
        if stage == "reading" and done == total:
            (corpus / "part-0/0117.txt").write_text("changed")

    with pytest.raises(InputError) as refused:
        prepare([corpus], tmp_path / "place/out", tokenizer, report=interfere)

    assert refused.value.message.startswith(f"{corpus}/part-0/0117.txt changed")
    assert list((tmp_path / "place").iterdir()) == []


FORBIDDEN = """
import os, sys
from pathlib import Path
from llmrun.data import prepare as module
from llmrun.errors import InputError
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    module.prepare([Path(sys.argv[1])], Path("out"), "byte")
except InputError as error:
    print(error.message)
"""


@pytest.mark.parametrize("what", ["file", "unlistable", "unsearchable", "below"])
def test_forbidden(what):
    """Whatever may not be read is named: a file, a directory that cannot be listed or searched, or one above it."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "in/d").mkdir(parents=True)
        (place / "in/d/a.txt").write_text("x")
        forbidden = place / ("in/d/a.txt" if what == "file" else "in/d")
        forbidden.chmod({"file": 0, "unlistable": 0o311, "unsearchable": 0o444, "below": 0}[what])
        given = place / ("in/d/a.txt" if what == "below" else "in")
        done = subprocess.run(
            [sys.executable, "-c", FORBIDDEN, given], cwd=place, capture_output=True, text=True, check=True
        )
        forbidden.chmod(0o755)

        assert done.stdout.endswith("Permission denied\n"), done.stderr
        assert f"{place}/in/d" in done.stdout
