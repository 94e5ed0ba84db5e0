"""torch's generators set from stream keys."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmrun.core.generators import cpu_generator, cpu_state, seed_torch
from llmrun.core.streams import seed_of, stream_key

VECTORS = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())


@pytest.mark.parametrize("case", VECTORS["streams"], ids=lambda case: str(case["of"]))
def test_stream_vectors(case):
    """Keys, CUDA seeds and the CPU generator's numbers are the published ones."""
    key = stream_key(*case["of"])
    assert key.hex() == case["key"]
    assert f"{seed_of(key):016x}" == case["cuda_seed"]
    drawn = torch.rand(4, generator=cpu_generator(*case["of"])).view(torch.int32).tolist()
    assert [f"{x & 0xFFFFFFFF:08x}" for x in drawn] == case["cpu_rand4_as_fp32_bits"]


def test_all_seed_bits_count():
    """Seeds that differ above 32 bits, which torch's CPU generator would take for one, differ."""
    assert not torch.equal(cpu_state(stream_key(1, "a")), cpu_state(stream_key(1 + 5 * 2**32, "a")))


def test_default_generator_is_set():
    """`seed_torch` makes dropout a function of the key alone."""
    seed_torch(stream_key(3, "dropout", 0, 0))
    first = torch.nn.functional.dropout(torch.ones(100))
    torch.rand(7)
    seed_torch(stream_key(3, "dropout", 0, 0))
    assert torch.equal(first, torch.nn.functional.dropout(torch.ones(100)))


def test_streams_need_no_torch():
    """Keys are computed without torch."""
    code = "import sys, llmrun.core.streams, llmrun.core.lanes; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
