"""The layout of a run's directory (docs/run-directory.md), and finding runs by name or path.

Nothing in a run's directory depends on its own path: it may be copied, moved or renamed.
"""

import difflib
import itertools
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from llmrun.errors import InputError, Place
from llmrun.storage.durable import DISK, TEMPORARY_PREFIX, make_directories
from llmrun.text import command


@dataclass(frozen=True)
class RunDirectory:
    """The paths of one run.  Segments are numbered from 1, ranks from 0."""

    path: Path

    @property
    def name(self) -> str:
        """The name of the directory; of the symbolic link if `path` is one."""
        return Path(os.path.abspath(self.path)).name  # noqa: PTH100  resolve() would follow the link

    @property
    def record_file(self) -> Path:
        """Identity, fingerprint, status, segments; every run has it."""
        return self.path / "run.json"

    @property
    def forecast_file(self) -> Path:
        """What was planned for each segment, and what was measured."""
        return self.path / "forecast.json"

    @property
    def config_file(self) -> Path:
        """The fully resolved config, written once."""
        return self.path / "config.yaml"

    @property
    def lock_file(self) -> Path:
        """Names the process that trains this run."""
        return self.path / "run.lock"

    @property
    def provenance(self) -> Path:
        """Snapshots of the first segment, and below it those of later ones."""
        return self.path / "provenance"

    def segment_provenance(self, segment: int) -> Path:
        """A segment's snapshot of git, packages and environment."""
        return self.provenance if segment == 1 else self.provenance / f"segment-{segment:03d}"

    @property
    def migration_file(self) -> Path:
        """The initial state of a migrated run; absent if the run begins at step 0."""
        return self.provenance / "migration.json"

    @property
    def migration_script(self) -> Path:
        """A copy of the script that made the initial state of a migrated run."""
        return self.provenance / "migration.py"

    @property
    def ledger_file(self) -> Path:
        """One record per step."""
        return self.path / "ledger.bin"

    @property
    def ledger_tensors(self) -> Path:
        """Digests of single tensors, every 100th step."""
        return self.path / "ledger-tensors"

    def ledger_tail(self, segment: int, count: int = 1) -> Path:
        """The part of the ledger that was cut off when `segment` started.

        count: 2, 3, … for further starts of the segment after one that was killed before run.json recorded it.
        """
        again = f".{count}" if count > 1 else ""
        return self.path / f"ledger-tail-{segment:03d}{again}.bin"

    def free_ledger_tail(self, segment: int) -> Path:
        """The first unused path for a tail of `segment`."""
        return next(
            path for count in itertools.count(1) if not (path := self.ledger_tail(segment, count)).exists()
        )

    def ledger_tails(self, segment: int) -> list[Path]:
        """The existing tails of `segment`."""
        paths = (self.ledger_tail(segment, count) for count in itertools.count(1))
        return list(itertools.takewhile(Path.exists, paths))

    @property
    def order(self) -> Path:
        """The order of samples."""
        return self.path / "order"

    @property
    def metrics_file(self) -> Path:
        """One JSON object per step."""
        return self.path / "metrics.jsonl"

    @property
    def baseline_file(self) -> Path:
        """The noise band that the loss is compared with; only with `monitor.baseline`."""
        return self.path / "baseline.json"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard events."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """Committed checkpoints."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        """One directory per segment."""
        return self.path / "logs"

    def segment_logs(self, segment: int) -> Path:
        """Logs, worker spec and outcomes of one segment."""
        return self.logs / f"segment-{segment:03d}"

    def worker_spec_file(self, segment: int) -> Path:
        """The WorkerSpec of a segment."""
        return self.segment_logs(segment) / "orders.json"

    def rank_log(self, segment: int, rank: int) -> Path:
        """Standard output and error of one worker."""
        return self.segment_logs(segment) / f"rank-{rank}.log"

    def outcome_file(self, segment: int, rank: int) -> Path:
        """The Outcome of one worker."""
        return self.segment_logs(segment) / f"rank-{rank}.outcome.json"

    def warnings_file(self, segment: int) -> Path:
        """Warnings of a running segment."""
        return self.segment_logs(segment) / "remarks.txt"

    def stop_file(self, segment: int) -> Path:
        """Created by the launcher to ask all ranks to save and stop."""
        return self.segment_logs(segment) / "stop"

    def torchrun_log(self, segment: int) -> Path:
        """Standard output and error of torchrun."""
        return self.segment_logs(segment) / "torchrun.log"

    def failures_file(self, segment: int) -> Path:
        """The workers that torchrun saw fail, with exit codes."""
        return self.segment_logs(segment) / "failures.json"

    @property
    def is_run(self) -> bool:
        """Whether this is a run's directory."""
        return self.record_file.is_file()


def run_id(name: str, now: datetime) -> str:
    """A new identity: `<name>-<yyyymmdd>-<hhmmss>-<4 hex>`."""
    return f"{name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def draft_directory(runs_dir: Path, identity: str) -> RunDirectory:
    """A new hidden directory in which a run is prepared before it gets its name.

    Raises InputError if `runs_dir` cannot be written.
    """
    prepare_runs_dir(runs_dir)
    path = runs_dir / f"{TEMPORARY_PREFIX}{identity}-{os.getpid()}-{secrets.token_hex(4)}"
    DISK.make_directory(path)
    return RunDirectory(path)


def refuse_inside_run(path: Path, where: str) -> None:
    """Raise InputError if `path` is inside a run, whose files are swept, pruned and moved.

    where: the setting that `path` comes from.
    """
    place = path.resolve()
    for around in (place, *place.parents):
        if RunDirectory(around).is_run and (around / "checkpoints").is_dir():
            raise InputError(
                f"{path} must not be inside a run, got one inside {around}",
                where=where,
                hints=[RUNS_DIR_HINT],
            )


def prepare_runs_dir(runs_dir: Path) -> None:
    """Create `runs_dir` and check that it is writable.  Raises InputError."""
    refuse_inside_run(runs_dir, "runs_dir")
    try:
        make_directories(runs_dir)
    except OSError as error:
        raise InputError(
            f"cannot create {runs_dir}: {error.strerror}", where=Place(key="runs_dir"), hints=[RUNS_DIR_HINT]
        ) from error
    if not runs_dir.is_dir():
        raise InputError(f"{runs_dir} is not a directory", where=Place(key="runs_dir"), hints=[RUNS_DIR_HINT])
    if not os.access(runs_dir, os.W_OK | os.X_OK):
        raise InputError(f"{runs_dir} is not writable", where=Place(key="runs_dir"), hints=[RUNS_DIR_HINT])


RUNS_DIR_HINT = "choose another directory: `--set runs_dir=DIR`"


def runs_below(runs_dir: Path) -> Iterator[RunDirectory]:
    """All runs directly below `runs_dir`, by name."""
    if not runs_dir.is_dir():
        return
    for path in sorted(runs_dir.iterdir()):
        run = RunDirectory(path)
        if not path.name.startswith(".") and run.is_run:
            yield run


def find_run(name_or_path: str, runs_dir: str | Path = "runs") -> RunDirectory:
    """The run with this name below `runs_dir`, or at this path.

    Raises InputError with the nearest names.
    """
    for path in (Path(name_or_path), Path(runs_dir) / name_or_path):
        if RunDirectory(path).is_run:
            return RunDirectory(path)
    path = Path(name_or_path)
    if path.is_dir():
        raise InputError(
            f"{path} is not a run's directory: it has no run.json",
            hints=missing_run_hints(path.name, runs_dir),
        )
    raise InputError(f"there is no run {name_or_path}", hints=missing_run_hints(path.name, runs_dir))


def find_run_or_path(given: str, runs_dir: str | Path = "runs") -> Path:
    """A run by its path or by its name below `runs_dir`, or else any path that is there.

    Raises InputError with the nearest names.
    """
    path, named = Path(given), Path(runs_dir) / given
    if path.exists() and (RunDirectory(path).is_run or not RunDirectory(named).is_run):
        return path
    return find_run(given, runs_dir).path


def missing_run_hints(name: str, runs_dir: str | Path) -> list[str]:
    """Hints for a run name that was not found."""
    names = [run.path.name for run in runs_below(Path(runs_dir))]
    if not names:
        return [f"there are no runs below {runs_dir}; `llmrun train CONFIG` starts one"]
    beginning = [known for known in names if name and known.startswith(name)]
    near = beginning[-3:] or difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return [f"did you mean {' or '.join(near)}"]
    runs = "run" if len(names) == 1 else "runs"
    return [
        f"`{command('llmrun', 'runs', 'list', '--runs-dir', str(runs_dir))}` shows the {len(names)} {runs} below {runs_dir}"
    ]
