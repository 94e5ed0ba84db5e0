"""Checkpoints made to hurt: whatever a stranger puts into one, reading it costs little and says so in a line."""

import ast
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from llmrun.storage.checkpoint.errors import Damage
from llmrun.storage.checkpoint.layout import MANIFEST, RNG, SUMS, TRAINER
from llmrun.storage.checkpoint.listing import damages_of, row_of
from llmrun.storage.checkpoint.reader import Checkpoint, open_checkpoint
from llmrun.storage.checkpoint.verification import verify_files

MODEL = "model-00001-of-00002.safetensors"
FILES = (MODEL, "optimizer-00002-of-00002.safetensors", RNG, TRAINER, MANIFEST, SUMS)
DEEP = b"[" * 500_000


@pytest.fixture
def saved(states, tmp_path) -> Path:
    """A sound checkpoint of two ranks."""
    return states.save(tmp_path / "checkpoints", 16)


def first_damage(checkpoint: Path) -> Damage:
    """The first damage that verifying finds; opening must find some too, each in one line."""
    row = row_of(checkpoint)
    (damage, *_) = verify_files(checkpoint)

    assert row is not None
    assert row.damages
    assert all(len(str(one)) < 300 and str(one).isprintable() for one in (damage, *row.damages))
    return damage


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", ["pipe", "link out", "link within", "dangling link", "device", "directory"])
def test_only_regular_files_are_read(saved, tmp_path, file, kind):
    """A pipe would hang, a device would never end, a link would leave the directory: each is refused by name."""
    path = saved / file
    shutil.move(path, tmp_path / "outside")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        try:
            os.mknod(path, 0o020644, os.makedev(1, 5))  # /dev/zero
        except PermissionError:
            pytest.skip("making a device needs root")
    else:
        shutil.copy(tmp_path / "outside", saved / "copy")
        path.symlink_to({"link out": tmp_path / "outside", "link within": "copy"}.get(kind, "nowhere"))
        if kind != "link within":
            (saved / "copy").unlink()

    expected = "link" if "link" in kind else "unreadable"
    assert any((damage.file, damage.kind) == (file, expected) for damage in verify_files(saved))
    first_damage(saved)


@pytest.mark.parametrize("file", [MANIFEST, TRAINER])
def test_json_without_bottom_is_refused(states, saved, file):
    """Half a million brackets in a signed file: a line, not a crash of the interpreter."""
    if file == MANIFEST:
        states.resign_text(saved, '{"format": ' + DEEP.decode())
    else:
        (saved / TRAINER).write_bytes(b'{"a": ' + DEEP)
        states.resign(saved)

    damage = first_damage(saved)
    assert (damage.file, damage.kind) == (file, "format")


def test_a_header_without_bottom_is_refused(states, saved):
    """The same in the header of a safetensors file."""
    content = b'{"a": ' + DEEP
    (saved / MODEL).write_bytes(len(content).to_bytes(8, "little") + content)
    states.resign(saved)

    damage = first_damage(saved)
    assert (damage.file, damage.kind) == (MODEL, "format")


def test_a_tensor_twice_in_a_header_is_refused(states, saved):
    """Two tensors of one name in a file: the second does not replace the first."""
    header = open_checkpoint(saved).headers[MODEL]
    name = next(iter(header))
    content = (saved / MODEL).read_bytes()
    length = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + length].decode().rstrip()
    start = text.index(f'"{name}"')
    twice = (
        f'{text[:start]}"{name}": {{"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, {text[start:]}'
    )
    (saved / MODEL).write_bytes(len(twice).to_bytes(8, "little") + twice.encode() + content[8 + length :])
    states.resign(saved)

    damage = first_damage(saved)
    assert (damage.file, damage.kind) == (MODEL, "format")
    assert name in damage.message


def grow(document: dict, shape: list[int], count: int) -> None:
    """Let the manifest state a tensor of another size, in one piece."""
    tensor = document["tensors"]["counter"]
    tensor |= {"shape": shape, "pieces": [{"file": tensor["pieces"][0]["file"], "start": 0, "count": count}]}


ABSURD = {
    "a tensor of 8 EB": lambda d: grow(d, [2**59], 2**59),
    "a tensor of 1 TB": lambda d: grow(d, [2**37], 2**37),
    "no elements, extents without end": lambda d: d["tensors"]["counter"].update(
        shape=[0, 2**62, 2**62], pieces=[]
    ),
    "a file of 8 EB": lambda d: d["files"][MODEL].update(bytes=2**63 - 1),
    "extents below zero": lambda d: grow(d, [-(2**40), -1], 2**40),
    "a piece beyond its tensor": lambda d: d["tensors"]["counter"]["pieces"][0].update(start=2**62),
}


@pytest.mark.parametrize("animal", ABSURD)
def test_a_stated_size_reserves_no_memory(states, saved, animal):
    """What the manifest states is held against the files before a byte is reserved for it."""
    states.resign(saved, ABSURD[animal])
    tracemalloc.start()
    damages = verify_files(saved, threads=1)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert damages
    assert peak_bytes < 3_000_000  # the block of 1 MiB that files are read in
    first_damage(saved)


@pytest.mark.parametrize("length", [2**63, 2**40, 99_999_999, 100_000_001])
def test_a_stated_header_reserves_no_memory(states, saved, length):
    """A header's stated length is held against the size of the file."""
    (saved / MODEL).write_bytes(length.to_bytes(8, "little") + b"{}")
    states.resign(saved)
    tracemalloc.start()
    row = row_of(saved)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert (row.damages[0].file, row.damages[0].kind) == (MODEL, "size")
    assert peak_bytes < 1_000_000


@pytest.mark.parametrize("file", [TRAINER, MANIFEST, SUMS])
def test_a_small_file_that_is_not_small_is_refused(saved, file):
    """A hole of 1 TB under the name of a small file is refused by its size, not read."""
    with (saved / file).open("r+b") as handle:
        handle.truncate(2**40)
    row = row_of(saved)

    assert (row.damages[0].file, row.damages[0].kind) == (file, "size")


def test_a_tensor_without_elements_is_read(states, tmp_path):
    """The limit on extents refuses no honest empty tensor."""
    path = states.save(tmp_path, 8, 1, [states.whole("empty", "buffer", "F32", (0, 4096), 1)])

    assert open_checkpoint(path).read_all("empty").shape == (0, 4096)


def test_a_link_in_place_of_a_checkpoint_is_not_followed(saved, tmp_path):
    """What it points at is not the run's: damaged, and its size unknown."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(bytes(1000))
    link = saved.with_name("step-00000200")
    link.symlink_to(tmp_path / "outside")
    row = row_of(link)

    assert (row.step, row.bytes) == (200, None)
    assert [(damage.file, damage.kind) for damage in row.damages] == [(".", "link")]
    assert row_of(saved).bytes > 0


def test_a_directory_that_may_not_be_listed_is_damage(saved, monkeypatch):
    """Read permission missing on the directory alone: a line, not a bug."""

    def refused(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refused)

    for (damage,) in (verify_files(saved), row_of(saved).damages):
        assert (damage.checkpoint, damage.file, damage.kind) == (saved.name, ".", "unreadable")
        assert "Permission denied" in damage.message


def test_a_checkpoint_that_its_run_deletes_meanwhile_is_not_damaged(saved, monkeypatch):
    """Gone while it was being looked at, at whatever file: no row, no damage, no error."""
    gone = saved.with_name(".tmp-delete")
    for number in range(8):
        calls, opened = [], os.open

        def leaving(path, *rest, number=number, calls=calls, opened=opened, **given):
            calls.append(path)
            if len(calls) == number + 1:
                saved.replace(gone)
            return opened(path, *rest, **given)

        for look in (row_of, lambda path: damages_of(path, lambda _: ())):
            calls.clear()
            monkeypatch.setattr(os, "open", leaving)
            assert look(saved) is None
            monkeypatch.undo()
            gone.replace(saved)


def test_nothing_that_reads_a_checkpoint_can_run_code(llmrun_sources):
    """No module of the package names a loader that runs code; `tests/test_tidy_calls.py` bans them by call.

    Here by import, in every spelling, and for the arguments that would unlock them.
    """
    unsafe = {
        "pickle",
        "cPickle",
        "dill",
        "cloudpickle",
        "joblib",
        "marshal",
        "shelve",
        "jsonpickle",
        "runpy",
    }
    unlocking = {"allow_pickle", "weights_only"}
    for source in llmrun_sources:
        for node in ast.walk(source.tree):
            named = []
            if isinstance(node, ast.Import):
                named = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                named = [(node.module or "").split(".")[0]]
            elif isinstance(node, ast.keyword):
                named = [node.arg or ""]
            found = set(named) & (unsafe | unlocking)
            if source.module in ("llmrun.launch.boot", "llmrun.launch.agent"):
                found -= {"runpy"}  # start llmrun's own modules by name
            assert not found, f"{source.path}: {named}"


def test_reading_a_checkpoint_imports_no_unpickler(saved):
    """In a process of its own: opening, verifying and reading all tensors never unpickles, and needs no torch."""
    script = (
        "import pickle, sys\n"
        "def refuse(*_): raise SystemExit('unpickled')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = pickle._Unpickler = refuse\n"
        "from pathlib import Path\n"
        "from llmrun.storage.checkpoint.verification import open_verified\n"
        "checkpoint = open_verified(Path(sys.argv[1]))\n"
        "print(sum(checkpoint.read(name).size for name in checkpoint.manifest.tensors), len(checkpoint.rng()))\n"
        "assert 'torch' not in sys.modules\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, str(saved)], capture_output=True, text=True, check=False
    )

    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.split() == ["121", "2"]


def test_reading_stays_within_the_range_that_was_asked(saved):
    """A range of a tensor is read into memory of exactly its size."""
    checkpoint: Checkpoint = open_checkpoint(saved)
    whole = checkpoint.read("model.embed_tokens.weight")
    out = np.full(9, 7, np.float32)

    assert checkpoint.read("model.embed_tokens.weight", 13, 9, out) is out
    assert out.tobytes() == whole[13:22].tobytes()


def test_an_empty_tensor_of_absurd_extents_is_refused(states, tmp_path):
    """No file holds anything of it, so only the limit stands between its shape and numpy, which would raise."""
    path = states.save(tmp_path, 8, 1, [states.whole("empty", "buffer", "F32", (0, 4096), 1)])
    states.resign(path, lambda document: document["tensors"]["empty"].update(shape=[0, 2**62]))

    damage = first_damage(path)
    assert (damage.file, damage.kind) == (MANIFEST, "format")
    assert "tensor 'empty' shape" in damage.message
