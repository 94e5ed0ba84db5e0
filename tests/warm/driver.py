"""Runs real runs through the launcher's own code, with a warm pool or torchrun below it."""

from pathlib import Path

import pytest

from llmrun.config.load import load_config
from llmrun.data.prepare import prepare
from llmrun.launch import preflight
from llmrun.launch.new_run import prepare_fresh
from llmrun.launch.options import LaunchContext, launch_options
from llmrun.launch.prepared_segment import NothingToDo
from llmrun.launch.resume import ResumeCommand, prepare_resume
from llmrun.launch.segment import SegmentResult, run_segment
from llmrun.launch.torchrun import ProcessBackend
from llmrun.run.directory import RunDirectory
from llmrun.run.signals import LauncherStopRequest
from warm.packages import QuickQuestion

TEXT = Path(__file__).parents[2] / "LICENSE"

CONFIG = """
name: small
T_tokens: 8Ki
model: {n_layers: 2, d_model: 72, n_heads: 4, n_kv_heads: 2, d_ff: 43, dropout: 0.1}
batch: {GB_tok: 512, μ_tok: 64, L_ctx: 32, V: 8, D: 1}
optimizer: {lr: 3e-3}
schedule: {warmup_tokens: 2Ki}
data: {path: DATA, num_workers: 0}
eval: {every_steps: 4, windows: 8}
checkpoint: {every_steps: 5, keep_best: false}
reproducibility: {compare_with: none}
hardware: {device: cpu}
"""
STEPS = 16


class Silent:
    """A spectator that only keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def rows(self, rows) -> None:
        """New numbers."""

    def checkpoint(self, step: int) -> None:
        """A new checkpoint."""

    def warn(self, message: str) -> None:
        """A remark while the run goes on."""
        self.warned.append(message)

    def stopping(self, message: str) -> None:
        """A stop was asked for."""
        self.said.append(message)


def make_dataset(directory: Path) -> Path:
    """A byte dataset of the licence's text."""
    text = directory / "text"
    text.mkdir()
    (text / "licence.txt").write_text(TEXT.read_text())
    prepare([text], directory / "data", "byte", val_fraction=0.1)
    return directory / "data"


class Driver:
    """Starts and resumes runs below one directory."""

    def __init__(self, directory: Path, dataset: Path) -> None:
        self.directory = directory
        self.config = directory / "config.yaml"
        self.config.write_text(CONFIG.replace("DATA", str(dataset)))
        self.said: list[str] = []

    def train(
        self, backend: ProcessBackend, name: str, *overrides: str, until: int | None = None
    ) -> SegmentResult:
        """A new run named `name`."""
        sets = [f"runs_dir={self.directory / 'runs'}", *overrides]
        options = launch_options(sets, [], until)
        loaded = load_config(self.config, options.overrides)
        with LauncherStopRequest() as stop, pytest.MonkeyPatch.context() as patch:
            patch.setattr(preflight, "PackageQuestion", QuickQuestion)
            prepared = prepare_fresh(loaded, name, options, LaunchContext(backend, stop, self.said.append))
            return run_segment(prepared, backend, stop, Silent())

    def resume(
        self, backend: ProcessBackend, name: str, *overrides: str, D=None, until=None, allow=(), start=None
    ) -> SegmentResult:
        """The next segment of a run."""
        options = launch_options(overrides, allow, until, D, start)
        with LauncherStopRequest() as stop, pytest.MonkeyPatch.context() as patch:
            patch.setattr(preflight, "PackageQuestion", QuickQuestion)
            command = ResumeCommand(f"llmrun resume {name}")
            context = LaunchContext(backend, stop, self.said.append)
            prepared = prepare_resume(self.run(name), options, command, context)
            assert not isinstance(prepared, NothingToDo)
            return run_segment(prepared, backend, stop, Silent())

    def run(self, name: str) -> RunDirectory:
        """A run's directory."""
        return RunDirectory(self.directory / "runs" / name)
