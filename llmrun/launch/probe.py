"""Asks a process like a worker what it finds: `python -m llmrun.train.probe DEVICE`."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping

from llmrun.errors import RefusedError
from llmrun.launch.starter import Probe

PROBE_MODULE = "llmrun.train.probe"
POLL_S = 0.1
TIMEOUT_S = 600
LAST_LINES = 12


def run_probe(device: str, environment: Mapping[str, str], check: Callable[[], None]) -> Probe:
    """Start a probe with a worker's variables and read its answer.

    device: `cpu` or `cuda`, on which the workers would train.
    check: called at every poll; what it raises ends the probe.
    Raises RefusedError where it fails: a worker could not start here either.
    """
    command = [sys.executable, "-m", PROBE_MODULE, device]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=words,
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
        return answer(exit_code, output.read().decode(), words.read().decode(errors="replace"))


def wait(process: subprocess.Popen[bytes], check: Callable[[], None]) -> int:
    """The exit code of a process, `check` called meanwhile.  Raises RefusedError after ten minutes."""
    for _ in range(int(TIMEOUT_S / POLL_S)):
        try:
            return process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            check()
    raise RefusedError(f"looking at the environment took longer than {TIMEOUT_S} s")


def answer(exit_code: int, output: str, words: str) -> Probe:
    """The probe's answer: one JSON object on the last line of its output."""
    if exit_code != 0:
        raise RefusedError(
            f"a worker could not start here: the probe of its environment ended with exit code {exit_code}",
            caused_by=[line for line in words.splitlines() if line.strip()][-LAST_LINES:],
        )
    document = json.loads(output.strip().splitlines()[-1])
    return Probe(document["environment"], document["recorded"], document["source_files"])
