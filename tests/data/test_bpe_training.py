"""Training a BPE: long words cost no more than others, Ctrl-C acts at once, the same file everywhere."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from llmrun.data.bpe_training import WORD_CHARS, cut_long_words
from llmrun.data.tokenizers import END_OF_TEXT, train_bpe

from .conftest import text_of

COMMAND = [sys.executable, "-m", "llmrun", "data", "prepare"]
GPT2_WORDS = pre_tokenizers.Split(
    Regex(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"), "isolated"
)


def chinese(n_chars, seed=1):
    """Chinese characters without punctuation, rare and frequent ones."""
    drawn = random.Random(seed)
    return "".join(chr(0x4E00 + int(drawn.paretovariate(0.5)) % 3000) for _ in range(n_chars))


def test_long_words(tmp_path):
    """100,000 equal letters and 68,000 Chinese characters in a row: seconds, with a warning that names the file."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/letters.txt").write_text(f"some words and {'a' * 100_000} more words")
    (tmp_path / "texts/chinese.txt").write_text(chinese(68_000))
    (tmp_path / "texts/ordinary.txt").write_text("".join(map(text_of, range(20))))
    out = ["--out", tmp_path / "out", "--tokenizer", "bpe", "--val-fraction", "0"]
    done = subprocess.run(
        [*COMMAND, tmp_path / "texts", *out], capture_output=True, text=True, timeout=60, check=True
    )
    recipe = json.loads((tmp_path / "out/dataset.json").read_text())["recipe"]

    assert recipe["tokenizer_training"] == {"word_chars": 256, "words_cut": 2, "longest_word": 100_001}
    assert re.search(r"100,001 characters.*letters\.txt", done.stderr)
    assert "merges" in done.stderr


WORDS = st.lists(
    st.sampled_from(
        [
            "a" * 256,
            "b" * 257,
            "7" * 300,
            "!?" * 200,
            " " * 300,
            "\n" * 258,
            "数" * 999,
            " ",
            "x",
            "'s",
            "\t",
            "é1",
        ]
    ),
    max_size=8,
).map("".join)


@given(WORDS | st.text(max_size=40))
def test_words_are_cut_and_nothing_else(text):
    """What is trained on is the library's words, the longer ones in cuts of 256 characters."""
    lengths = []
    pieces = list(cut_long_words(text, lengths.append))
    words = [word for word, _ in GPT2_WORDS.pre_tokenize_str(text)]
    expected = [word[i : i + WORD_CHARS] for word in words for i in range(0, len(word), WORD_CHARS)]

    assert [word for piece in pieces for word, _ in GPT2_WORDS.pre_tokenize_str(piece)] == expected
    assert lengths == [len(word) for word in words if len(word) > WORD_CHARS]
    assert lengths or pieces == [text]


def test_ordinary_text_is_trained_on_as_before():
    """Without long words the file is the one that the library itself trains."""
    texts = [text_of(number) for number in range(60)]
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer)

    assert train_bpe(texts, 400).content == (engine.to_str(pretty=True) + "\n").encode()


@pytest.fixture(scope="module")
def long_training(tmp_path_factory):
    """A text whose vocabulary of 300,000 takes many seconds of training."""
    drawn = random.Random(2)
    words = ["".join(drawn.choices("abcdefghijklmnopqrstuvwxyz", k=12)) for _ in range(60_000)]
    path = tmp_path_factory.mktemp("long") / "text.txt"
    path.write_text(" ".join(words))
    return path


def started(text, out):
    """`data prepare` on its own, once it has begun to merge, with the process that trains."""
    options = ["--out", out, "--tokenizer", "bpe", "--vocab-size", "300000"]
    process = subprocess.Popen([*COMMAND, text, *options], stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "merges" in line:
            break
    (trainer,) = psutil.Process(process.pid).children()
    return process, trainer


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name
)
def test_a_signal_ends_training_at_once(long_training, tmp_path, number):
    """Ctrl-C while the library trains ends the command at once; whatever ends it, the training ends too."""
    process, trainer = started(long_training, tmp_path / "place/out")
    sent = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    took = time.monotonic() - sent
    psutil.wait_procs([trainer], timeout=10)

    assert not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE
    assert process.returncode != 0
    assert "Traceback" not in err
    assert took < 3  # a second, and what a busy machine adds
    if number == signal.SIGINT:
        assert list((tmp_path / "place").iterdir()) == []


def test_the_training_is_killed(long_training, tmp_path):
    """If the system kills the training (out of memory), that is said with exit 4, and nothing is left."""
    process, trainer = started(long_training, tmp_path / "place/out")
    trainer.kill()
    _, err = process.communicate(timeout=60)

    assert process.returncode == 4
    assert "signal 9" in err
    assert list((tmp_path / "place").iterdir()) == []


@pytest.mark.slow
def test_the_same_file_everywhere(tmp_path):
    """Whatever the number of threads and the hash seed: the same tokenizer.json of a corpus with long words."""
    (tmp_path / "a.txt").write_text(
        chinese(3000) + " and words " * 9 + "a" * 2000 + "".join(map(text_of, range(40)))
    )
    settings = [("1", "0", "true"), ("2", "1", "true"), ("5", "2", "true"), ("1", "3", "false")]
    for number, (threads, seed, parallel) in enumerate(settings):
        environment = {
            "RAYON_NUM_THREADS": threads,
            "PYTHONHASHSEED": seed,
            "TOKENIZERS_PARALLELISM": parallel,
        }
        options = ["--out", tmp_path / str(number), "--tokenizer", "bpe", "--vocab-size", "900"]
        subprocess.run([*COMMAND, tmp_path / "a.txt", *options], env=os.environ | environment, check=True)
    files = {Path(tmp_path, str(number), "tokenizer.json").read_bytes() for number in range(len(settings))}

    assert len(files) == 1
