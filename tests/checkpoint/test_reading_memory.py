"""Any D reads the files of any D, and a rank that reads its shard needs memory for its shard."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmrun.storage.checkpoint.reader import open_checkpoint

WRITERS = 64
LAYERS = 12
SHAPE = (512, 1024)
TOTAL_BYTES = 3 * LAYERS * 512 * 1024 * 4

READER = """
import json, sys
from pathlib import Path
import numpy as np
from llmrun.storage.checkpoint.reader import open_checkpoint

def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

path, rank, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
open_checkpoint(path)                             # once, so that the interpreter has what it needs
Path("/proc/self/clear_refs").write_text("5")     # the high-water mark begins here
before = resident("VmRSS")
checkpoint = open_checkpoint(path)
shard = []
for name, tensor in checkpoint.manifest.tensors.items():
    start, stop = (tensor.numel * r // world for r in (rank, rank + 1))
    shard.append(checkpoint.read(name, start, stop - start))
print(json.dumps({
    "bytes": sum(values.nbytes for values in shard),
    "grown": resident("VmHWM") - before,
    "sum": float(sum(values.sum(dtype=np.float64) for values in shard)),
}))
"""


@pytest.fixture(scope="module")
def of_64(states, tmp_path_factory) -> Path:
    """A checkpoint of 75 MB by 64 writers: 12 layers with both moments, each cut into 64 pieces."""
    rows = np.arange(512 * 1024, dtype=np.float32)
    state = []
    for layer in range(LAYERS):
        name = f"model.layers.{layer}.weight"
        for suffix, kind in (
            ("", "parameter"),
            (".exp_avg", "optimizer/exp_avg"),
            (".exp_avg_sq", "optimizer/exp_avg_sq"),
        ):
            state.append(states.Whole(name + suffix, kind, "F32", SHAPE, rows + layer))
    return states.save(tmp_path_factory.mktemp("of64"), 8, WRITERS, state)


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc/self/clear_refs"
)
@pytest.mark.parametrize("world", [1, 3, 64])
def test_a_rank_needs_its_shard_and_a_buffer(of_64, world):
    """In a process of its own, the most resident memory while reading is the shard and at most 8 MB more."""
    command = [sys.executable, "-c", READER, str(of_64), str(world - 1), str(world)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert abs(found["bytes"] - TOTAL_BYTES / world) < 1000
    assert found["grown"] < found["bytes"] + 8_000_000
    if world == 1:
        assert found["grown"] > 0.9 * TOTAL_BYTES  # the measure measures


def test_the_pieces_of_any_D_join_to_what_64_wrote(of_64):
    """Read by 1, 3, 5 and 64 ranks, every tensor has the bytes that were written."""
    checkpoint = open_checkpoint(of_64)
    for name, tensor in list(checkpoint.manifest.tensors.items())[::7]:
        layer = int(name.split(".")[2])
        whole = np.arange(512 * 1024, dtype=np.float32) + layer

        assert len(tensor.pieces) == WRITERS
        for world in (1, 3, 5, 64):
            cuts = [tensor.numel * rank // world for rank in range(world + 1)]
            parts = [checkpoint.read(name, cuts[r], cuts[r + 1] - cuts[r]) for r in range(world)]
            assert np.concatenate(parts).tobytes() == whole.tobytes()
