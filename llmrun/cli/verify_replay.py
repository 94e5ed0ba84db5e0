"""What `llmrun verify` does where steps are executed again: one run, or the step at which two part."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.cli import console
from llmrun.cli.verdict import show

if TYPE_CHECKING:
    from llmrun.verify.replay.execute import Crew

BISECT_STEPS = 1


@dataclass(frozen=True)
class ReplayRequest:
    """The options of `llmrun verify` that speak of executing steps again; None where not given."""

    from_step: int | None
    steps: int | None
    D: int | None
    windows: int | None
    seed: int | None
    data: Path | None

    def check_for_comparison(self) -> None:
        """None of them is for a comparison.  Raises InputError."""
        for option in ("--from", "--steps", "--D", "--windows", "--seed", "--data"):
            self._refuse(option, "executes steps again; what is given here is only compared")

    def check_for_bisect(self, *, two_runs: bool) -> None:
        """Raises InputError for options that do not go with `--bisect`."""
        self._refuse("--windows", "does not go with --bisect")
        self._refuse("--seed", "does not go with --bisect")
        if two_runs:
            self._refuse(
                "--from", "does not go with --bisect of two runs: the step is the one at which they part"
            )
            self._refuse(
                "--steps", "does not go with --bisect of two runs: the step is the one at which they part"
            )

    def check_for_replay(self) -> None:
        """Raises InputError for options that contradict each other."""
        if self.windows is None:
            self._refuse("--seed", "is for --windows K")
        else:
            self._refuse("--from", "does not go with --windows: they are drawn from the whole run")

    def _refuse(self, option: str, why: str) -> None:
        from llmrun.errors import InputError

        given = {
            "--from": self.from_step,
            "--steps": self.steps,
            "--D": self.D,
            "--windows": self.windows,
            "--seed": self.seed,
            "--data": self.data,
        }
        if given[option] is not None:
            raise InputError(f"{option} {why}", hints=["`llmrun verify --help` shows what goes together"])


def replay_run(path: Path, asked: ReplayRequest, as_json: bool) -> None:
    """Execute steps of one run again.  Ends with exit code 0 or 1, or raises what stopped it."""
    from llmrun.cli.verify import end_with
    from llmrun.verify.replay.audit import DEFAULT_STEPS, Wish, verify_replay
    from llmrun.verify.replay.render import lines_of_replay

    wish = Wish(asked.from_step, asked.steps or DEFAULT_STEPS, asked.windows, asked.seed or 0)
    with crew_for(asked) as crew:
        replay = verify_replay(path, wish, crew)
    if as_json:
        console.emit_json(replay.as_json())
    else:
        show(lines_of_replay(replay))
    end_with(replay.verdict)


def bisect_runs(path_a: Path, path_b: Path | None, asked: ReplayRequest, as_json: bool) -> None:
    """Name the first module that differs.  Ends with exit code 0 or 1, or raises what stopped it."""
    from llmrun.cli.verify import end_with
    from llmrun.verify.render import lines_of
    from llmrun.verify.replay.locate import locate_between, locate_in
    from llmrun.verify.replay.render import lines_of_bisection

    with crew_for(asked) as crew:
        if path_b is None:
            located = locate_in(path_a, asked.from_step, asked.steps or BISECT_STEPS, crew)
        else:
            located = locate_between(path_a, path_b, crew)
    if as_json:
        console.emit_json(located.as_json())
    else:
        before = [] if path_b is None else lines_of(located.verdict)
        show([*before, *lines_of_bisection(located)])
    end_with(located.verdict)


@contextmanager
def crew_for(asked: ReplayRequest) -> "Iterator[Crew]":
    """Workers under torchrun and a scratch directory, which stays only where an error names a log in it."""
    import tempfile

    from llmrun.cli.progress import ReplayProgress
    from llmrun.errors import LlmrunError
    from llmrun.launch.torchrun import TorchrunBackend
    from llmrun.storage.durable import DISK
    from llmrun.verify.replay.execute import Crew

    scratch = Path(tempfile.mkdtemp(prefix="llmrun-replay-"))
    view = ReplayProgress()
    keep = False
    try:
        yield Crew(TorchrunBackend(), view, scratch, asked.D, asked.data)
    except LlmrunError as error:
        named = None if error.where is None else error.where.file
        keep = named is not None and Path(named).is_relative_to(scratch)
        raise
    finally:
        view.close()
        if not keep:
            DISK.remove_tree(scratch)
