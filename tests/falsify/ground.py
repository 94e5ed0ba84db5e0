"""Where attempts take place: one dataset, a few configs with their reference runs, and the real command line."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TEXTS = ("LICENSE", "README.md", "docs/design.md")
TIMEOUT_S = 480
POLL_S = 0.001

_BF16 = """
name: falsify
seed: 42
T_tokens: 8Ki
runs_dir: RUNS
model: {n_layers: 2, d_model: 256, n_heads: 4, n_kv_heads: 2, d_ff: 688, dropout: 0.1}
batch: {GB_tok: 2Ki, μ_tok: 1Ki, L_ctx: 128, V: 2, D: 1}
optimizer: {lr: 1e-3, eps: 1e-8}
schedule: {warmup_tokens: 2Ki}
precision: bf16
data: {path: DATA, num_workers: 0}
eval: {every_steps: 4, windows: 8}
checkpoint: {every_steps: null, keep_best: false}
reproducibility: {compare_with: none}
hardware: {device: cpu, threads_per_rank: 1}
"""
_ODD = (
    _BF16.replace(
        "d_model: 256, n_heads: 4, n_kv_heads: 2, d_ff: 688",
        "d_model: 72, n_heads: 4, n_kv_heads: 2, d_ff: 43",
    )
    .replace("GB_tok: 2Ki, μ_tok: 1Ki, L_ctx: 128, V: 2", "GB_tok: 2Ki, μ_tok: 256, L_ctx: 64, V: 8")
    .replace("precision: bf16", "precision: fp32")
)
CONFIGS = {
    "bf16": _BF16,
    "fp32": _BF16.replace("precision: bf16", "precision: fp32"),
    # Awkward shapes: widths that are no multiple of 16, grouped heads, one micro-batch a lane.
    "odd": _ODD,
    # Biases start at 0 and move by denormal numbers.
    "denormal": _ODD.replace("dropout: 0.1", "dropout: 0.1, bias: true, norm: layernorm, mlp: gelu").replace(
        "lr: 1e-3", "lr: 1e-39"
    ),
}
"""Four steps each.  RUNS and DATA are replaced by paths."""
STEPS = 4


class NotHereError(Exception):
    """This machine lacks what an attempt needs."""


@dataclass(frozen=True)
class Finished:
    """A command that has ended.  code: the exit code; None if it was killed after `TIMEOUT_S`."""

    code: int | None
    out: str
    err: str
    run: Path


Meanwhile = Callable[["subprocess.Popen[str]", Path], None]
"""What an attempt does while a run is going on: gets the launcher and the run's directory."""


def clean_environment(home: Path) -> dict[str, str]:
    """The variables of every command: nothing of the caller's but PATH and the place of temporary files."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    return {**kept, "HOME": str(home), "LANG": "C.UTF-8", "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "100"}


class ReplayEnvironment:
    """The directory of a campaign.  Reference runs are made when they are first needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path / "data"
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._references: dict[str, Path] = {}
        (path / "text").mkdir(parents=True)
        for number, name in enumerate(TEXTS):
            shutil.copyfile(ROOT / name, path / "text" / f"{number}.txt")
        self.prepare(self.data)

    def prepare(self, out: Path, *options: str) -> None:
        """Make a dataset of the same text."""
        self.place("prepare").command(
            "data", "prepare", str(self.path / "text"), "--out", str(out), "--tokenizer", "byte",
            "--val-fraction", "0.1", *options,
        )  # fmt: skip

    def place(self, name: str) -> "Place":
        """A new empty directory for an attempt."""
        path = self.path / name
        shutil.rmtree(path, ignore_errors=True)
        (path / "home").mkdir(parents=True)
        (path / "work").mkdir()
        return Place(self, path)

    def reference(self, config: str) -> Path:
        """The finished reference run of a config."""
        return self.once(config, lambda place: place.train(config, name="reference"))

    def once(self, name: str, train: "Callable[[Place], Finished]") -> Path:
        """The directory of a run that several attempts share; the first one that needs it makes it."""
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if name not in self._references:
                done = train(self.place(f"reference-{name}"))
                assert done.code == 0, f"the reference run {name} failed:\n{done.err}"
                self._references[name] = done.run
            return self._references[name]


@dataclass(frozen=True)
class Place:
    """One attempt's own directory."""

    ground: ReplayEnvironment
    path: Path
    python: Path = field(default=BIN / "python")

    @property
    def work(self) -> Path:
        """The working directory of its commands."""
        return self.path / "work"

    def run(self, name: str = "variant") -> Path:
        """The directory of a run."""
        return self.path / "runs" / name

    def config(self, config: str, text: str | None = None) -> Path:
        """A config file; `text` stands in for that of `config`."""
        file = self.path / f"{config}.yaml"
        content = CONFIGS[config] if text is None else text
        file.write_text(
            content.replace("RUNS", str(self.path / "runs")).replace("DATA", str(self.ground.data))
        )
        return file

    def train(
        self,
        config: str = "bf16",
        *,
        name: str = "variant",
        text: str | None = None,
        options: Sequence[str] = (),
        **how: object,
    ) -> Finished:
        """`llmrun train CONFIG --run NAME`."""
        file = self.config(config, text)
        return self.command("train", str(file), "--run", name, *options, run=self.run(name), **how)  # type: ignore[arg-type]

    def resume(self, *options: str, name: str = "variant", **how: object) -> Finished:
        """`llmrun resume RUN`."""
        return self.command("resume", str(self.run(name)), *options, run=self.run(name), **how)  # type: ignore[arg-type]

    def command(
        self,
        *arguments: str,
        run: Path | None = None,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        interpreter: Sequence[str] = (),
        cwd: Path | None = None,
        meanwhile: Meanwhile | None = None,
    ) -> Finished:
        """Run one command of llmrun to its end.

        env:         variables beside the clean ones.
        prefix:      words before the command, such as `taskset -c 0`.
        interpreter: options of the Python interpreter.
        """
        script = str(self.python.parent / "llmrun")
        words = [*prefix, str(self.python), *interpreter, script, *arguments]
        variables = clean_environment(self.path / "home") | dict(env or {})
        run = run or self.path
        process = subprocess.Popen(
            words, cwd=cwd or self.work, env=variables, text=True, errors="replace", stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        thread = threading.Thread(target=meanwhile, args=(process, run)) if meanwhile else None
        if thread is not None:
            thread.start()
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
            code: int | None = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()  # workers die with their launcher
            out, err = process.communicate()
            code = None
        if thread is not None:
            thread.join()
        return Finished(code, out, err, run)


def wait_for(process: "subprocess.Popen[str]", is_there: Callable[[], bool]) -> bool:
    """Poll until `is_there`; False if the process ended before."""
    while not is_there():
        if process.poll() is not None:
            return False
        time.sleep(POLL_S)
    return True


def copy_package(place: Place) -> Path:
    """A copy of llmrun of the attempt's own, to be put on PYTHONPATH; with its byte code.

    Returns the directory that holds the package.
    """
    home = place.path / "install"
    shutil.copytree(ROOT / "llmrun", home / "llmrun")
    return home


EDITED = ("STANDARD_DEVIATION = 0.02", "STANDARD_DEVIATION = 0.03")
"""A line of the numeric source, and one of the same size that changes every bit."""


def numeric_source(package: Path) -> Path:
    """The file below `package` that holds the line to edit."""
    (found,) = [file for file in (package / "llmrun").rglob("*.py") if f"\n{EDITED[0]}\n" in file.read_text()]
    return found


def edit(file: Path) -> None:
    """Change the numeric source as an editor does: another mtime."""
    replace_text(file, file.read_text().replace(*EDITED))


def replace_text(file: Path, text: str) -> None:
    """Write a file under another name and rename it: never through a hard link, never half."""
    temporary = file.with_name(f"{file.name}.new")
    temporary.write_text(text)
    temporary.replace(file)
