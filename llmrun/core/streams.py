"""Keys of all random streams: pure functions of the seed and of logical numbers (no torch).

A stream never depends on a rank, a worker or a process.  The families:

["dropout", step, micro_batch]   masks of one micro-batch, step 0-based
["boundary", step]               every generator between two steps
["init", parameter name]         initial values of one parameter
["order", epoch]                 the permutation of an epoch
["worker", rank, worker]         loader workers (llmrun draws nothing from it)
["eval"]                         the fixed windows of the validation split
["sample"]                       tokens drawn by `llmrun sample`
"""

import hashlib
import json
from typing import Any

STREAM_FORMAT = b"llmrun/1\0"


def canonical_json(value: Any) -> str:
    """`value` as canonical JSON: sorted keys, separators `,` and `:`, ASCII, shortest floats.

    Raises ValueError for NaN and infinities, TypeError for other values that JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def stream_key(seed: int, *names: str | int) -> bytes:
    """The 32-byte key of the stream `[seed, *names]`."""
    return hashlib.sha256(STREAM_FORMAT + canonical_json([seed, *names]).encode()).digest()


def seed_of(key: bytes, n_bytes: int = 8) -> int:
    """The first `n_bytes` of a key, little-endian: 8 for CUDA generators, 4 for numpy."""
    return int.from_bytes(key[:n_bytes], "little")


def words_of(key: bytes, n_words: int) -> bytes:
    """`n_words` 32-bit little-endian words drawn from a key by SHAKE-256."""
    return hashlib.shake_256(key).digest(4 * n_words)
