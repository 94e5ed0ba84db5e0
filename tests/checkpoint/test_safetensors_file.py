"""Headers of strangers: absurd sizes, gaps and overlaps are refused before anything is read."""

import hashlib
import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from llmrun.storage.checkpoint.errors import CheckpointDamage
from llmrun.storage.checkpoint.safetensors import Stored, read_header, read_range, write_tensors


def file_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def row(start: int, stop: int, shape: object = (2,), dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


WRONG = {
    "nothing": (b"", "ends at byte 0, too early"),
    "four bytes": (b"\0\0\0\0", "too early"),
    "a header of 2^63 bytes": (
        file_of({}, length=2**63),
        "states a header of 9,223,372,036,854,775,808 bytes",
    ),
    "a header past the end": (file_of({}, length=3), "states a header of 3 bytes in a file of 10"),
    "no JSON": (file_of(b"{]"), "has a damaged header: is not JSON"),
    "a list": (file_of([]), "the document is [], not an object"),
    "an unknown type": (file_of({"w": row(0, 8, dtype="F31")}, b"x" * 8), "dtype is 'F31', not a known"),
    "a key missing": (file_of({"w": {"dtype": "F32"}}), "tensor 'w' lacks 'data_offsets'"),
    "an unknown key": (file_of({"w": row(0, 8) | {"code": 1}}, b"x" * 8), "unknown key 'code'"),
    "three offsets": (
        file_of({"w": row(0, 8) | {"data_offsets": [0, 4, 8]}}, b"x" * 8),
        "has the offsets [0, 4, 8]",
    ),
    "offsets backwards": (file_of({"w": row(8, 0)}, b"x" * 8), "has the offsets [8, 0]"),
    "a size that is not the shape's": (file_of({"w": row(0, 12)}, b"x" * 12), "of F32 [2] has the offsets"),
    "past the end": (file_of({"w": row(0, 8)}, b"x" * 4), "tensors end at byte"),
    "bytes that belong to none": (file_of({"w": row(0, 8)}, b"x" * 9), "tensors end at byte"),
    "a gap": (file_of({"v": row(0, 8), "w": row(12, 20)}, b"x" * 20), "tensor 'w' begins at byte"),
    "an overlap": (file_of({"v": row(0, 8), "w": row(4, 12)}, b"x" * 12), "tensor 'w' begins at byte"),
    "an absurd shape": (file_of({"w": row(0, 8, [2**62, 4])}, b"x" * 8), "larger than any file"),
    "a name twice": (file_of(b'{"w": 1, "w": 1}'), "names 'w' twice"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), "__metadata__ 'a' is not a string"),
}


@pytest.mark.parametrize("animal", WRONG)
def test_a_wrong_file_is_refused(tmp_path, animal):
    """Each wrong file is refused with one line that names it."""
    content, message = WRONG[animal]
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointDamage) as raised:
        read_header(path)

    assert message in raised.value.message
    assert "w.safetensors" in raised.value.message
    assert "\n" not in raised.value.message


def test_files_of_the_library_are_read(tmp_path):
    """A file that the safetensors library wrote has the same tensors for us."""
    path = tmp_path / "w.safetensors"
    tensors = {
        "v": np.arange(5, dtype=np.int16),
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    }
    save_file(tensors, path)
    header = read_header(path)
    for name, values in tensors.items():
        found = np.empty(values.size, values.dtype)
        read_range(path, header[name], 0, found)

        assert header[name].shape == values.shape
        assert found.tobytes() == values.tobytes()


def test_tensors_start_at_multiples_of_their_element_size(tmp_path):
    """Whatever the order they are given in, wide elements come first and the data begins at 64 bytes."""
    path = tmp_path / "w.safetensors"
    given = [
        ("a", "U8", np.uint8),
        ("b", "F64", np.float64),
        ("c", "BF16", np.uint16),
        ("d", "F32", np.float32),
    ]
    write_tensors(path, [Stored(name, dtype, (3,), np.ones(3, carrier)) for name, dtype, carrier in given])
    header = read_header(path)

    assert min(entry.start for entry in header.values()) % 64 == 0
    assert all(header[name].start % np.dtype(carrier).itemsize == 0 for name, _, carrier in given)


def test_large_tensors_go_through_in_blocks(tmp_path):
    """A tensor larger than a block is written and read whole, and its hash is that of the file."""
    path = tmp_path / "w.safetensors"
    values = np.random.default_rng(0).integers(0, 2**32, 5_000_011, dtype=np.uint32)
    n_bytes, sha256 = write_tensors(path, [Stored("w", "U32", (values.size,), values)])
    found = np.empty_like(values)
    read_range(path, read_header(path)["w"], 0, found)

    assert n_bytes == path.stat().st_size
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found == values).all()
