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
    "nothing": (b"", "size"),
    "four bytes": (b"\0\0\0\0", "size"),
    "a header of 2^63 bytes": (
        file_of({}, length=2**63),
        "size",
    ),
    "a header past the end": (file_of({}, length=3), "size"),
    "no JSON": (file_of(b"{]"), "format"),
    "a list": (file_of([]), "format"),
    "an unknown type": (file_of({"w": row(0, 8, dtype="F31")}, b"x" * 8), "format"),
    "a key missing": (file_of({"w": {"dtype": "F32"}}), "format"),
    "an unknown key": (file_of({"w": row(0, 8) | {"code": 1}}, b"x" * 8), "format"),
    "three offsets": (
        file_of({"w": row(0, 8) | {"data_offsets": [0, 4, 8]}}, b"x" * 8),
        "format",
    ),
    "offsets backwards": (file_of({"w": row(8, 0)}, b"x" * 8), "format"),
    "a size that is not the shape's": (file_of({"w": row(0, 12)}, b"x" * 12), "format"),
    "past the end": (file_of({"w": row(0, 8)}, b"x" * 4), "format"),
    "bytes that belong to none": (file_of({"w": row(0, 8)}, b"x" * 9), "format"),
    "a gap": (file_of({"v": row(0, 8), "w": row(12, 20)}, b"x" * 20), "format"),
    "an overlap": (file_of({"v": row(0, 8), "w": row(4, 12)}, b"x" * 12), "format"),
    "an absurd shape": (file_of({"w": row(0, 8, [2**62, 4])}, b"x" * 8), "format"),
    "a name twice": (file_of(b'{"w": 1, "w": 1}'), "format"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), "format"),
}


@pytest.mark.parametrize("animal", WRONG)
def test_a_wrong_file_is_refused(tmp_path, animal):
    """Each wrong file is refused with one line that names it."""
    content, kind = WRONG[animal]
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointDamage) as raised:
        read_header(path)

    (damage,) = raised.value.damages
    assert (damage.file, damage.kind) == ("w.safetensors", kind)
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
