"""Every bad run, dataset, checkpoint and argument, with the whole screen that `llmrun` answers with."""

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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llmrun.cli.app import run
from llmrun.provenance.packages import Packages
from llmrun.run.lock import RunLock
from llmrun.storage.ledger.reader import HEADER_BYTES
from llmrun.storage.ledger.record import RECORD_DTYPE
from warm.driver import CONFIG
from warm.pool import PoolBackend

GOLDEN = Path(__file__).with_name("bad_inputs.txt")

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


@dataclass(frozen=True)
class Case:
    title: str
    preparations: tuple[str, ...]
    command: str
    expected: str


def read_cases(text: str) -> list[Case]:
    cases = []
    for block in text.split("\n=== ")[1:]:
        title, _, rest = block.partition("\n")
        given, _, expected = rest.partition("~~~~\n")
        *preparations, command = given.splitlines()
        assert command.startswith("$ llmrun "), title
        cases.append(Case(title, tuple(preparations), command.removeprefix("$ "), expected.strip()))
    return cases


CASES = read_cases(GOLDEN.read_text(encoding="utf-8"))


class QuickQuestion:
    """Answers at once what pip takes a second for; pip itself is asked in tests/provenance."""

    def ready(self, timeout_s):
        """Always."""
        return True

    def answer(self):
        """One package."""
        return Packages(("torch==2.13.0",), "pip freeze")

    def withdraw(self):
        """Nothing to end."""


def llmrun(*arguments: str) -> tuple[int, str]:
    """One command line in this process: its exit code, and its screen with `| ` before what is data."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(arguments), as_json="--json" in arguments)
    return code, "".join(f"| {line}\n" for line in out.getvalue().splitlines()) + err.getvalue()


@pytest.fixture(scope="session")
def made(tmp_path_factory, dataset, warm_starts):
    """A working directory with a config, a dataset and a few runs; copied for each case."""
    place = tmp_path_factory.mktemp("bad") / MADE
    place.mkdir()
    (place / "config.yaml").write_text(CONFIG.replace("DATA", "data"))
    shutil.copytree(dataset, place / "data")
    with contextlib.chdir(place):
        for name, options in RUNS.items():
            code, screen = llmrun("train", "config.yaml", "--run", name, *options)
            assert code == 0, screen
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
    for line in case.preparations:
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


def screen_of(case: Case, place: Path) -> str:
    """What the command answers, with what is unsteady filtered out."""
    with contextlib.ExitStack() as cleanup:
        prepare(case, cleanup)
        code, screen = llmrun(*shlex.split(case.command)[1:])
    screen = screen.replace(str(place), "<tmp>").replace(os.path.realpath(place), "<tmp>")
    for pattern, replacement in UNSTEADY:
        screen = pattern.sub(replacement, screen)
    return f"exit {code}\n{screen}".strip()


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_bad_input_says(case: Case, place: Path) -> None:
    """A bad input ends with exactly the exit code and the screen that the golden file shows."""
    assert screen_of(case, place) == case.expected


def test_no_case_ends_in_a_bug() -> None:
    """Every case has another title, and none of the screens is that of a bug of ours."""
    screens = [case.expected for case in CASES]

    assert len({case.title for case in CASES}) == len(CASES) >= 60
    assert [screen for screen in screens if not re.match(r"exit [01234]\n", screen)] == []
    assert [
        word for word in ("Traceback", "bug", "Error:", "Input should") for s in screens if word in s
    ] == []
