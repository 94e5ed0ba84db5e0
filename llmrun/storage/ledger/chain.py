"""The hash chain of a ledger: equal chains mean equal histories.

chain_0 = sha256(name of the format ‖ record 0 without its chain)
chain_n = sha256(chain_{n-1} ‖ record n without its chain)

In the file chain_{n-1} is stored directly before record n, so that each link is one sha256 over 112 contiguous bytes.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from llmrun.storage.ledger.record import BODY_BYTES, CHAIN_BYTES, RECORD_BYTES

FORMAT_NAME = b"llmrun-ledger/1"
"""Takes the place of a chain before record 0."""

_BLOCK_RECORDS = 1 << 14


def next_chain(before: bytes, body: bytes) -> bytes:
    """The chain of a record: `before` is the chain of the record before it, FORMAT_NAME for record 0."""
    return hashlib.sha256(before + body).digest()


def first_broken(words: NDArray[np.uint64], before: bytes, start: int = 0) -> int | None:
    """The index of the first record from `start` on whose chain is wrong; None if there is none.

    words: [n_records, 14], uint64, contiguous: the records as in the file.
    before: the chain before record 0 of `words`.  A million records take about a second.
    """
    n_records = len(words)
    if start >= n_records:
        return None
    assert words.flags.c_contiguous, "records must be contiguous"
    view = words.reshape(-1).data.cast("B")
    if start == 0:
        if next_chain(before, bytes(view[:BODY_BYTES])) != bytes(view[BODY_BYTES:RECORD_BYTES]):
            return 0
        start = 1
    for low in range(start, n_records, _BLOCK_RECORDS):
        high = min(low + _BLOCK_RECORDS, n_records)
        offsets = range(low * RECORD_BYTES, high * RECORD_BYTES, RECORD_BYTES)
        chains = b"".join(
            [hashlib.sha256(view[at - CHAIN_BYTES : at + BODY_BYTES]).digest() for at in offsets]
        )
        expected = np.frombuffer(chains, dtype="<u8").reshape(high - low, CHAIN_BYTES // 8)
        broken = (expected != words[low:high, BODY_BYTES // 8 :]).any(axis=1)
        if broken.any():
            return low + int(broken.argmax())
    return None
