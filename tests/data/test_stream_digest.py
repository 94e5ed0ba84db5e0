"""The token-stream digest depends on the tokens alone."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.data import stream_digest
from llmrun.data.stream_digest import BLOCK_TOKENS, StreamDigest


def digest_of(*pieces):
    """The digest of a stream given in pieces."""
    digest = StreamDigest()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


@pytest.mark.parametrize("n_tokens", [0, 1, BLOCK_TOKENS - 1, BLOCK_TOKENS, 2 * BLOCK_TOKENS + 3])
def test_definition(n_tokens):
    """It is the sha256 over the raw sha256s of blocks of 4 Mi tokens as uint32 little-endian."""
    tokens = (np.arange(n_tokens) * 7919 % 65521).astype("<u4")
    blocks = [
        hashlib.sha256(tokens[i : i + BLOCK_TOKENS].tobytes()).digest()
        for i in range(0, n_tokens, BLOCK_TOKENS)
    ]

    assert digest_of(tokens.astype(np.uint16)) == hashlib.sha256(b"".join(blocks)).hexdigest()


@given(st.lists(st.lists(st.integers(0, 65535), max_size=12), max_size=8))
def test_cuts_and_dtype(pieces):
    """However a stream is cut, and in whichever dtype, the digest is the same."""
    whole = np.array([token for piece in pieces for token in piece], dtype=np.int64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_digest, "BLOCK_TOKENS", 5)
        expected = digest_of(whole)

        assert digest_of(*(np.array(piece, dtype=np.uint16) for piece in pieces)) == expected
        assert digest_of(whole.astype("<u4")) == expected
        assert digest_of(whole.astype(">u4")) == expected


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30), st.data())
def test_sensitive(tokens, data):
    """Another token at any place, or one token less, gives another digest."""
    place = data.draw(st.integers(0, len(tokens) - 1))
    changed = tokens.copy()
    changed[place] ^= 1
    digest = digest_of(np.array(tokens, dtype=np.uint32))

    assert digest_of(np.array(changed, dtype=np.uint32)) != digest
    assert digest_of(np.array(tokens[:-1], dtype=np.uint32)) != digest


def test_goes_on():
    """Asking for the digest does not end the stream."""
    digest = StreamDigest()
    digest.update(np.arange(3, dtype=np.uint16))
    digest.hexdigest()
    digest.update(np.arange(3, 7, dtype=np.uint16))

    assert digest.hexdigest() == digest_of(np.arange(7, dtype=np.uint16))
