"""A warm worker server: torch is imported once, every rank is a fork of this process.

Reads one JSON request a line on standard input and answers each with one line.  A forked rank runs exactly
what `python -m llmrun.runtime.worker` runs, after an optional mutation (tests/warm/mutations.py).
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from llmrun.machine import die_with_parent
from llmrun.provenance.mapped_libraries import FileSum, mapped_libraries
from llmrun.run.directory import RunDirectory
from llmrun.runtime import worker
from llmrun.runtime.model_facts import answer_for
from llmrun.runtime.probe import probe

sys.path.insert(0, str(Path(__file__).parent))
import mutations
from preload import preload

libraries: dict[str, FileSum] = {}
statuses: dict[int, int] = {}


def start(request: dict) -> dict:
    """Fork one rank."""
    server = os.getpid()
    pid = os.fork()
    if pid:
        statuses.pop(pid, None)  # of an earlier rank: the system uses numbers again
        return {"pid": pid}
    die_with_parent(server)
    os.chdir(request["directory"])
    os.environ.update(request["environment"])
    run, segment, rank = RunDirectory(Path(request["run"])), request["segment"], request["rank"]
    worker.log_to(run.rank_log(segment, rank))
    if request.get("mutation"):
        getattr(mutations, request["mutation"])(**request.get("arguments", {}))
    outcome, code = worker.work(run, segment, rank)
    outcome.write(run.outcome_file(segment, rank))
    os._exit(code)


def look(request: dict) -> dict:
    """Probe in a fork, with a worker's variables."""
    pid = os.fork()
    if pid == 0:
        os.environ.update(request["environment"])
        Path(request["path"]).write_text(json.dumps(probe(request["device"], libraries)))
        os._exit(0)
    os.waitpid(pid, 0)
    return {}


def describe(request: dict) -> dict:
    """Construct a user's own model in a fork, with a worker's variables."""
    pid = os.fork()
    if pid == 0:
        os.environ.update(request["environment"])
        Path(request["path"]).write_text(answer_for(os.environ))
        os._exit(0)
    os.waitpid(pid, 0)
    return {}


def poll(request: dict) -> dict:
    """The exit code of a rank, None while it lives."""
    pid = request["pid"]
    if pid not in statuses:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            statuses[pid] = os.waitstatus_to_exitcode(status)
    return {"code": statuses.get(pid)}


def kill(request: dict) -> dict:
    """SIGKILL a rank and wait for it."""
    pid = request["pid"]
    if pid not in statuses:
        os.kill(pid, signal.SIGKILL)
        statuses[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {}


def main() -> None:
    torch.set_num_threads(1)
    # Once, not in every fork.
    preload()
    libraries.update(mapped_libraries({}))
    operations = {"describe": describe, "start": start, "look": look, "poll": poll, "kill": kill}
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(operations[request["op"]](request)), flush=True)


if __name__ == "__main__":
    main()
