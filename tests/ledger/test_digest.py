"""The digest of tensors against vectors, a second implementation, and its promises."""

import json
from itertools import pairwise
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from llmrun.core.splitmix import splitmix64
from llmrun.core.tensor_digest import MASK, Digester, Words, words_of

VECTORS = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())
DIGESTER = Digester(torch.device("cpu"))


def pattern(n: int) -> bytes:
    """The byte pattern of the vectors."""
    return bytes((31 * i + 7) % 251 for i in range(n))


def words(content: bytes) -> torch.Tensor:
    """int32 words of bytes, zero-padded."""
    padded = content + bytes(-len(content) % 4)
    return torch.from_numpy(np.frombuffer(padded, dtype=np.int32).copy())


def kappa(i: int) -> int:
    """The constant of word i, as the definition reads."""
    return ((splitmix64(i % 65536) | 1) * (splitmix64(2**40 + i // 65536) | 1)) & MASK


def reference(content: bytes, start: int = 0) -> int:
    """The digest, word by word."""
    return sum(int(e) * kappa(start + i) for i, e in enumerate(words(content).tolist())) & MASK


@pytest.mark.parametrize(("i", "expected"), VECTORS["kappa"])
def test_constants(i, expected):
    """The published constants come out."""
    assert f"{kappa(i):016x}" == expected


@pytest.mark.parametrize("case", VECTORS["digest"], ids=lambda case: case["what"])
def test_digest_vectors(case):
    """The published digests come out, whole and in pieces."""
    if "digests" in case:
        whole = words(pattern(300_004))
        pieces = [Words(whole[:100], 0), Words(whole[100:75_000], 100), Words(whole[75_000:], 75_000)]
        assert [f"{d:016x}" for d in DIGESTER.digests(pieces)] == case["digests"]
        return
    content = bytes.fromhex(case["bytes"]) if "bytes" in case else pattern(300_004)
    assert (
        f"{DIGESTER.digest(torch.frombuffer(bytearray(content), dtype=torch.uint8)) if content else 0:016x}"
        == case["digest"]
    )


@given(st.binary(max_size=400), st.sampled_from([0, 65_530, 131_070]))
@settings(deadline=None)
def test_agrees_with_the_definition(content, start):
    """Any bytes at any place give the digest that the definition gives."""
    assert DIGESTER.digests([Words(words(content), start)]) == [reference(content, start)]


@given(st.integers(1, 200_000), st.lists(st.integers(0, 200_000), max_size=5), st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_pieces_add_up(n, cuts, seed):
    """However a tensor is cut, the pieces' digests add up to the whole's."""
    values = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    bounds = [0, *sorted(min(c, n) for c in cuts), n]
    pieces = [words_of(values[a:b], a) for a, b in pairwise(bounds)]

    assert sum(DIGESTER.digests(pieces)) & MASK == DIGESTER.digest(values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.int32])
def test_every_word_counts(dtype):
    """One flipped bit anywhere, and two elements swapped, change the digest; all dtypes are read as bytes."""
    values = torch.arange(1, 70_000).to(dtype)
    digest = DIGESTER.digest(values)
    assert digest == reference(values.view(torch.uint8).numpy().tobytes())
    for i in (0, 1, 40_000, len(values) - 1):
        changed = values.clone()
        changed.view(torch.uint8)[i * values.element_size()] ^= 1
        assert DIGESTER.digest(changed) != digest


def test_traps_of_cheaper_digests():
    """+1, -2, +1 on neighbours and an even number of sign flips at odd places are seen."""
    values = torch.arange(1.0, 1000.0)
    neighbours = values.clone().view(torch.int32)
    neighbours[10:13] += torch.tensor([1, -2, 1], dtype=torch.int32)
    signs = values.clone()
    signs[[101, 103]] *= -1
    digests = {DIGESTER.digest(v) for v in (values, neighbours, signs)}
    assert len(digests) == 3


def test_chunks_give_what_rows_give():
    """The form for devices without an integer dot product gives the same digests."""
    other = Digester(torch.device("cpu"))
    other._buffer = torch.empty((64, 65_536), dtype=torch.int64)
    other._row_sums = other._row_sums_in_chunks
    values = torch.randn(65_536 * 70 + 11)
    pieces = [words_of(values), words_of(values[100:70_000], 100)]
    assert other.digests(pieces) == DIGESTER.digests(pieces)
