"""Asks a process like a worker what it finds: `boot.py -m llmrun.train.probe DEVICE`.

The answer has a file of its own: what libraries print cannot be taken for it.  The file also holds a line for each of
the user's files before it is executed, so that one that ends the process can be named.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import llmrun
from llmrun.errors import RefusedError
from llmrun.launch.starter import Probe
from llmrun.machine import ANSWER

PROBE_MODULE = "llmrun.train.probe"
BOOT = Path(llmrun.__file__).resolve().parent / "launch" / "boot.py"
POLL_S = 0.1
TIMEOUT_S = 600
LAST_LINES = 12
EXECUTING = "executing "


def child_command(module: str) -> list[str]:
    """The command that runs a module of this llmrun in a child process; its arguments are to follow.

    -P: the working directory is no import root.  -S: `site` runs when the import recorder watches.
    """
    return [sys.executable, "-P", "-S", "-u", str(BOOT), "-m", module]


def run_probe(device: str, environment: Mapping[str, str], check: Callable[[], None]) -> Probe:
    """Start a probe with a worker's variables and read its answer.

    device: `cpu` or `cuda`, on which the workers would train.
    check: called at every poll; what it raises ends the probe.
    Raises RefusedError if it fails: a worker could not start here either.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            [*child_command(PROBE_MODULE), device],
            env={**environment, ANSWER: str(output.fileno())},
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            pass_fds=[output.fileno()],
            start_new_session=True,  # Ctrl-C at a terminal is ours to handle
        )
        try:
            exit_code = wait(process, check)
        finally:
            process.kill()
            process.wait()
        check()
        output.seek(0)
        words.seek(0)
        lines = os.fsdecode(output.read()).splitlines()
        return answer(exit_code, lines, words.read().decode(errors="replace"))


def wait(process: subprocess.Popen[bytes], check: Callable[[], None]) -> int:
    """The exit code of a process, `check` called meanwhile.  Raises RefusedError after ten minutes."""
    for _ in range(int(TIMEOUT_S / POLL_S)):
        try:
            return process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            check()
    raise RefusedError(f"looking at the environment took longer than {TIMEOUT_S} s")


def answer(exit_code: int, lines: list[str], words: str) -> Probe:
    """The probe's answer: a JSON object on the last line of its file.

    words: what it printed.  Raises RefusedError that names the file in which it ended, if there is no answer.
    """
    document = _object_in(lines)
    if exit_code == 0 and "environment" in document:
        return Probe(document["environment"], document["recorded"], document["source_files"])
    own_files = [line.removeprefix(EXECUTING) for line in lines if line.startswith(EXECUTING)]
    file = document.get("file") or (own_files[-1] if own_files else None)
    also = [f"{path} was imported, which no installed package holds" for path in own_files if path != file]
    last = [line for line in words.splitlines() if line.strip()][-LAST_LINES:]
    raise RefusedError(
        f"cannot start a worker here: the probe of its environment ended with exit code {exit_code}",
        where=file,
        caused_by=[*last, *also[-LAST_LINES:]],
    )


def _object_in(lines: list[str]) -> dict[str, Any]:
    """The JSON object on the last line; empty if the process ended before it wrote one."""
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
