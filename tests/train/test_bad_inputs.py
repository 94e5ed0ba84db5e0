"""Every bad run, dataset, checkpoint and argument, with the exit code, error and facts that `llmrun` answers with."""

import contextlib
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from error_cases import (
    Case,
    assert_carries,
    assert_readable,
    facts,
    is_writing,
    lines_of_error,
    read_cases,
    write_expectation,
)
from llmrun.cli.app import run
from llmrun.cli.console import render_error
from llmrun.errors import error_of
from llmrun.run.lock import RunLock
from llmrun.storage.ledger.reader import HEADER_BYTES
from llmrun.storage.ledger.record import RECORD_DTYPE
from warm.driver import CONFIG
from warm.packages import QuickQuestion
from warm.pool import PoolBackend

FILE = Path(__file__).with_name("bad_inputs.txt")

RUNS = {
    "done": [],
    "half": ["--until", "8"],
    "other": ["--until", "8", "--set", "seed=43"],
    "unevaluated": ["--until", "2", "--set", "eval.every_steps=null"],
}
"""The runs of the place, by name: the options that they are trained with."""

MADE = "place-where-runs-are-made"

UNSTEADY = [
    (re.compile(rf"[^\s`]*/{MADE}"), "<where the runs were made>"),
    (re.compile(r"\(PID \d+\)|`kill \d+`"), lambda found: re.sub(r"\d+", "<PID>", found[0])),
    (re.compile(r"trained by \S+ on \S+ "), "trained by <user> on <host> "),
    (re.compile(r"stop it on \S+: "), "stop it on <host>: "),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<sha256>"),
    (re.compile(r"\b[0-9a-f]{12,16}…"), "<digits>…"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "<time>"),
    (re.compile(r"^(step \d+/\d+|checkpoint saved at step) .*\n", re.MULTILINE), ""),
    (re.compile(r"^plan: .*\n(  .*\n)+", re.MULTILINE), ""),
]
"""What differs from machine to machine and from time to time, and what stands in its place.  Nothing stands for lines
of progress and for the plan, which tests/plan has."""


CASES = read_cases(FILE)


def llmrun(*arguments: str, error_as_json: bool = False) -> tuple[int, str, str]:
    """One command line in this process: its exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(arguments), as_json=error_as_json)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="session")
def made(tmp_path_factory, dataset, warm_starts):
    """A working directory with a config, a dataset and a few runs; copied for each case."""
    place = tmp_path_factory.mktemp("bad") / MADE
    place.mkdir()
    (place / "config.yaml").write_text(CONFIG.replace("DATA", "data"))
    shutil.copytree(dataset, place / "data")
    with contextlib.chdir(place):
        for name, options in RUNS.items():
            code, _, words = llmrun("train", "config.yaml", "--run", name, *options)
            assert code == 0, words
    # Where the runs were made is no place any more: nothing may be found there.
    return place.rename(place.with_name("made"))


@pytest.fixture(scope="session")
def warm_starts(server, tmp_path_factory):
    """The command line starts its workers in the warm pool, outside any repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmrun.launch.torchrun.TorchrunBackend", lambda: PoolBackend(server))
        patch.setattr("llmrun.launch.preflight.PackageQuestion", QuickQuestion)
        patch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path_factory.getbasetemp()))
        yield


@pytest.fixture
def place(tmp_path, made, warm_starts, monkeypatch):
    """A fresh copy of the place, entered; its path is the same whatever the case."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def prepare(case: Case, cleanup: contextlib.ExitStack) -> None:
    """Do to the place what the case says, line by line."""
    for line in case.given.splitlines()[:-1]:
        mark, _, deed = line.partition(" ")
        if mark == "$":
            subprocess.run(["bash", "-ec", deed], check=True, env=os.environ | {"PYTHON": sys.executable})
        else:
            assert mark == "@", line
            name, *arguments = shlex.split(deed)
            DEEDS[name](cleanup, *map(Path, arguments))


def flip(_: contextlib.ExitStack, path: Path) -> None:
    """Invert one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def flip_record_3(_: contextlib.ExitStack, path: Path) -> None:
    """Invert one byte in the loss of step 3 in a ledger."""
    content = bytearray(path.read_bytes())
    content[HEADER_BYTES + 3 * RECORD_DTYPE.itemsize + RECORD_DTYPE.fields["loss"][1]] ^= 0xFF
    path.write_bytes(content)


def lock(cleanup: contextlib.ExitStack, path: Path) -> None:
    """Hold a run's lock while the command runs."""
    cleanup.callback(RunLock.acquire(path / "run.lock").release)


def restate(_: contextlib.ExitStack, checkpoint: Path) -> None:
    """State sizes and sha256s of a checkpoint's files anew, as whoever changes a file with care does."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        content = (checkpoint / name).read_bytes() if "/" not in name else b""
        entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    names = [line[66:] for line in (checkpoint / "SHA256SUMS").read_text().splitlines()]
    sums = [f"{hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (checkpoint / "SHA256SUMS").write_text("".join(sums))


def zero_moments(_: contextlib.ExitStack, checkpoint: Path) -> None:
    """Set AdamW's moments to zero and leave all else as it is."""
    (path,) = checkpoint.glob("optimizer-*.safetensors")
    save_file({name: np.zeros_like(values) for name, values in load_file(path).items()}, path)


DEEDS: dict[str, Callable[..., None]] = {
    deed.__name__: deed for deed in (flip, flip_record_3, lock, restate, zero_moments)
}


class Answer:
    """What a command answers.  place: its working directory."""

    def __init__(self, case: Case, place: Path, *, error_as_json: bool) -> None:
        self.command = command = case.given.splitlines()[-1]
        assert command.startswith("$ llmrun "), case.title
        with contextlib.ExitStack() as cleanup:
            prepare(case, cleanup)
            self.code, self.out, err = llmrun(*shlex.split(command)[2:], error_as_json=error_as_json)
        self.place = place
        self.notes, opening, rest = f"\n{err}".partition("\n{\n")
        self.error = json.loads(f"{{\n{rest}") if opening else None

    def steady(self, text: str) -> str:
        """A text without what differs from machine to machine and from time to time."""
        text = text.replace(str(self.place), "<tmp>").replace(os.path.realpath(self.place), "<tmp>")
        for pattern, replacement in UNSTEADY:
            text = pattern.sub(replacement, text)
        return text

    def lines(self) -> list[str]:
        """What tests/error_cases.py compares."""
        warnings = len(re.findall(r"^warning: ", self.notes, re.MULTILINE))
        noted, printed = facts(self.steady(f"{self.notes}\n"), self.command), facts(self.steady(self.out))
        return [
            f"exit {self.code}",
            *([] if self.error is None else lines_of_error(self.error, self.command, self.steady)),
            *([f"warnings {warnings}"] if warnings else []),
            *([f"noted {' '.join(noted)}"] if noted else []),
            *([f"stdout {' '.join(printed)}"] if printed else []),
        ]

    def screen(self) -> str:
        """The whole screen, with `| ` before what is data."""
        data = "".join(f"| {line}\n" for line in self.out.splitlines())
        return self.steady(data + self.notes.removeprefix("\n")).strip()


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_bad_input(case: Case, place: Path) -> None:
    """A bad input ends with the exit code, the error and the facts that its case states, and a short screen."""
    answer = Answer(case, place, error_as_json=True)
    lines = answer.lines()
    if is_writing():
        write_expectation(FILE, case.title, lines=lines)
        return

    assert_carries(lines, case.expected)
    if answer.error is not None:
        assert_readable(render_error(error_of(answer.error)))


@pytest.mark.parametrize("case", [case for case in CASES if case.screen], ids=lambda case: case.title)
def test_screen(case: Case, place: Path) -> None:
    """One case per command is held with its whole screen."""
    screen = Answer(case, place, error_as_json=False).screen()
    if is_writing():
        write_expectation(FILE, case.title, screen=screen)
        return

    assert screen == case.screen


def test_cases() -> None:
    """Every case has another title, ends as an error of the user, and states what is expected."""
    codes = [case.expected[0] for case in CASES]

    assert len({case.title for case in CASES}) == len(CASES) >= 90
    assert set(codes) <= {f"exit {code}" for code in range(6)}
    assert [case.title for case in CASES if len(case.expected) < 2] == []
