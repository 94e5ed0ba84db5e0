"""The measured peak of a rank's memory, in processes of its own: a peak cannot be taken back."""

import subprocess
import sys

import pytest

SCRIPT = """
import torch
from llmrun.runtime.progress import PeakMemory, resident
torch.zeros(1).sum()
peak = PeakMemory(torch.device("cpu"))
{work}
print(peak.read())
"""


def measured(work: str) -> int | None:
    """What a process that does this work measures."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(work=work)], capture_output=True, text=True, check=True
    )
    last = done.stdout.splitlines()[-1]
    return None if last == "None" else int(last)


@pytest.mark.parametrize("n_bytes", [100_000_000, 300_000_000])
def test_the_peak_is_what_was_held_at_once(n_bytes: int) -> None:
    """Memory that was touched and given back counts, memory that was never touched does not."""
    held = measured(f"a = torch.ones({n_bytes // 4}); del a; b = torch.empty(10**9)")

    assert held == pytest.approx(n_bytes, abs=5_000_000)


def test_file_pages_do_not_count(tmp_path) -> None:
    """A mapped dataset is not the rank's own memory."""
    path = tmp_path / "mapped"
    path.write_bytes(b"1" * 200_000_000)
    read = f"import numpy as np; m = np.memmap({str(path)!r}); m.sum(); a = torch.ones(10_000_000)"

    assert measured(read) == pytest.approx(40_000_000, abs=12_000_000)


def test_a_peak_before_the_start_is_unknown() -> None:
    """Where the process was larger before, its peak says nothing of the model."""
    before = "a = torch.ones(50_000_000); del a; peak = PeakMemory(torch.device('cpu'))"

    assert measured(before) is None
