"""Asking a process like a worker, with tiny modules in place of the real one."""

import os
import time

import pytest

from llmrun.errors import PreemptedError, RefusedError
from llmrun.launch.torchrun import TorchrunBackend, worker_environment


@pytest.fixture
def probing(tmp_path, monkeypatch):
    """Run a probe whose module is the given script."""
    monkeypatch.setattr("llmrun.launch.torchrun.PROBE_MODULE", "tiny_probe")

    def probe(script: str, check=lambda: None):
        (tmp_path / "tiny_probe.py").write_text(script)
        return TorchrunBackend().probe("cpu", {**os.environ, "PYTHONPATH": str(tmp_path), "X": "y"}, check)

    return probe


ANSWERING = "os.write(int(os.environ['LLMRUN_ANSWER_FD']), ('\\n' + json.dumps({}) + '\\n').encode())\n"


def test_the_answer_has_a_channel_of_its_own(probing):
    """Whatever is printed after it is no answer; the probe gets the device and the workers' variables."""
    probe = probing(
        "import json, os, sys\n"
        + ANSWERING.format(
            "{'environment': {'x': os.environ['X']}, 'recorded': sys.argv[1:], 'source_files': {}}"
        )
        + "print('{}')\n"
    )

    assert probe.environment == {"x": "y"}
    assert probe.recorded == ["cpu"]


def test_a_probe_that_fails_is_a_refusal_with_its_last_words(probing):
    """A worker could not start either: exit 3, and why."""
    with pytest.raises(RefusedError) as caught:
        probing("import no_such_module\n")

    assert "ended with exit code 1" in caught.value.message
    assert caught.value.caused_by[-1] == "ModuleNotFoundError: No module named 'no_such_module'"


def test_a_signal_ends_the_probing(probing):
    """A stop request does not wait for it."""
    begun = time.monotonic()

    def check():
        raise PreemptedError("stopped")

    with pytest.raises(PreemptedError):
        probing("import time\ntime.sleep(60)\n", check)
    assert time.monotonic() - begun < 30


def test_pinned_variables_win_over_the_users():
    """What may change bits is pinned, all else is passed on."""
    given = {"OMP_NUM_THREADS": "7", "PYTHONHASHSEED": "3", "NCCL_ALGO": "Tree", "HOME": "/srv/alice"}
    environment = worker_environment(given, 2)

    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "2"
    assert environment["PYTHONHASHSEED"] == "0"
    assert (environment["NCCL_ALGO"], environment["HOME"]) == ("Tree", "/srv/alice")
