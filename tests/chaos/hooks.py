"""In the process that is to be killed: counts operations and steps, and kills when the drawn moment has come."""

import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmrun.storage.checkpoint.layout import step_of
from llmrun.storage.durable import Disk

OPERATIONS = [name for name in vars(Disk) if not name.startswith("_")]


class Reports:
    """One pipe to the harness, written by launcher and ranks: a JSON object a line, each in one write."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def notify(self, **fields: Any) -> None:
        """Tell the harness."""
        os.write(self._descriptor, json.dumps(fields).encode() + b"\n")


class Trigger:
    """At the nth pass it says where it stands and strikes; before and after that it does nothing."""

    def __init__(self, nth: int, strike: Callable[[], None], reports: Reports) -> None:
        self._nth, self._strike, self._reports = nth, strike, reports
        self._passes = itertools.count(1)

    def at(self, where: str) -> None:
        """One pass; from any thread."""
        if next(self._passes) == self._nth:
            self._reports.notify(event="struck", where=where)
            self._strike()


def strike_group(group: int) -> Callable[[], None]:
    """SIGKILL of a whole process group."""
    return lambda: os.killpg(group, signal.SIGKILL)


def strike_process(pid: int) -> Callable[[], None]:
    """SIGKILL of one process."""
    return lambda: os.kill(pid, signal.SIGKILL)


def before_disk_operations(below: Path, trigger: Trigger) -> None:
    """Every operation on a path below `below`, or on a file opened there, first passes the trigger."""
    opened: set[int] = set()

    def is_meant(subject: object) -> bool:
        return (
            subject in opened if isinstance(subject, int) else below in (subject, *Path(str(subject)).parents)
        )

    def hooked(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def passing(disk: Disk, subject: Any, *rest: Any) -> Any:
            meant = is_meant(subject)
            if meant:
                trigger.at(name)
            found = operation(disk, subject, *rest)
            if meant and name in ("create", "open"):
                opened.add(found)
            if name == "close":
                opened.discard(subject)
            return found

        return passing

    for name in OPERATIONS:
        setattr(Disk, name, hooked(name, getattr(Disk, name)))


def tell_commits(reports: Reports) -> None:
    """Each checkpoint that has got its final name is told to the harness."""
    rename = Disk.rename

    def telling(disk: Disk, old: Path, new: Path) -> None:
        rename(disk, old, new)
        if (step := step_of(new.name)) is not None and new.parent.name == "checkpoints":
            reports.notify(event="committed", step=step)

    Disk.rename = telling


def before_calls(owner: Any, name: str, trigger: Trigger, where: str) -> None:
    """Every call of a function of a module or class first passes the trigger."""
    function = getattr(owner, name)

    def passing(*arguments: Any, **named: Any) -> Any:
        trigger.at(where)
        return function(*arguments, **named)

    setattr(owner, name, passing)


def at_point(point: str, trigger: Trigger) -> None:
    """A place within a step: a micro-batch's forward pass, the update, the ledger's record."""
    from llmrun.core import step
    from llmrun.storage.ledger.writer import LedgerWriter

    owner, name = {
        "micro-batch": (step, "micro_batch_loss"),
        "update": (step, "learning_rate"),
        "record": (LedgerWriter, "append"),
    }[point]
    before_calls(owner, name, trigger, point)


def tear_commits() -> None:
    """A fault on purpose: a checkpoint loses the end of a file once it has its final name."""
    rename = Disk.rename

    def tearing(disk: Disk, old: Path, new: Path) -> None:
        rename(disk, old, new)
        if step_of(new.name) is not None and new.parent.name == "checkpoints":
            os.truncate(new / "trainer.json", 10)

    Disk.rename = tearing
