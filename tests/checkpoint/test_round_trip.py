"""Any state, cut among any number of writers, comes back bit for bit."""

import json
import os
import stat
import subprocess
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from llmrun.storage.checkpoint.layout import data_files
from llmrun.storage.checkpoint.reader import open_checkpoint
from llmrun.storage.checkpoint.safetensors import DTYPES
from llmrun.storage.checkpoint.verification import newest_sound, verify_files

KINDS = ["parameter", "buffer", "extra", "optimizer/exp_avg", "optimizer/exp_avg_sq"]


@st.composite
def states_and_cuts(draw):
    """(rows of kind, dtype, shape; number of writers; cuts of each tensor), empty ranks included."""
    shapes = st.lists(st.integers(0, 6), max_size=3).map(tuple)
    rows = draw(
        st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(sorted(DTYPES)), shapes), max_size=6)
    )
    world = draw(st.integers(1, 5))
    cuts = []
    for _, _, shape in rows:
        count = int(np.prod(shape, dtype=np.int64))
        inner = draw(st.lists(st.integers(0, count), min_size=world - 1, max_size=world - 1))
        cuts.append([0, *sorted(inner), count])
    return rows, world, cuts


@given(states_and_cuts(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_any_state_from_any_writers_comes_back(states, drawn, seed):
    """Every tensor has its bytes, shape, type, kind and digest again, and every file is sound."""
    rows, world, cuts = drawn
    state = [states.whole(f"t{i}.w", *row, seed + i) for i, row in enumerate(rows)]
    with tempfile.TemporaryDirectory() as parent:
        path = states.save(
            Path(parent), 40, world, state, {tensor.name: cuts[i] for i, tensor in enumerate(state)}
        )

        assert verify_files(path) == []
        assert states.holds(open_checkpoint(path), state)


@given(states_and_cuts(), st.data())
@settings(deadline=None, max_examples=40)
def test_any_range_of_elements_is_read_across_files(states, drawn, data):
    """Any range of any tensor equals the same range of the whole, wherever files were cut."""
    rows, world, cuts = drawn
    state = [states.whole(f"t{i}.w", *row, i) for i, row in enumerate(rows)]
    with tempfile.TemporaryDirectory() as parent:
        path = states.save(Path(parent), 1, world, state, {t.name: cuts[i] for i, t in enumerate(state)})
        checkpoint = open_checkpoint(path)
        for tensor in state:
            start = data.draw(st.integers(0, tensor.numel))
            count = data.draw(st.integers(0, tensor.numel - start))

            found = checkpoint.read(tensor.name, start, count)

            assert found.tobytes() == tensor.values[start : start + count].tobytes()


def test_joined_bytes_are_the_same_for_every_number_of_writers(states, tmp_path):
    """D = 1 … 9 writers give the same joined tensors, digests and manifest entries except the pieces."""
    found = set()
    for world in range(1, 10):
        checkpoint = open_checkpoint(states.save(tmp_path / str(world), 8, world, states.small()))
        rows = [
            (name, entry.kind, entry.dtype, entry.shape, entry.digest, checkpoint.read(name).tobytes())
            for name, entry in sorted(checkpoint.manifest.tensors.items())
        ]
        found.add(tuple(rows))

        assert checkpoint.manifest.world == world

    assert len(found) == 1


def test_reading_fills_a_buffer_that_is_given(states, tmp_path):
    """`out` receives the elements and is returned."""
    state = states.small()
    checkpoint = open_checkpoint(states.save(tmp_path, 8, 3, state))
    buffer = np.zeros(20, dtype=np.float32)

    found = checkpoint.read(state[0].name, 10, 20, out=buffer)

    assert found is buffer
    assert buffer.tobytes() == state[0].values[10:30].tobytes()


def test_trainer_and_random_states_come_back(states, tmp_path):
    """trainer.json and rng.safetensors hold what rank 0 gave, shapes of scalars included."""
    checkpoint = open_checkpoint(states.save(tmp_path, 16))
    rng = checkpoint.rng()

    assert checkpoint.trainer == {"step": 16, "val_ppl": 12.5, "best_saved_step": 16, "text": "μ"}
    assert rng["torch"].tolist() == list(range(16, 32))
    assert rng["position"].shape == ()
    assert rng["position"] == 16


def test_the_manifest_carries_step_tokens_and_digests(states, tmp_path):
    """What binds a checkpoint to its run is in the manifest as it was given."""
    path = states.save(tmp_path, 40)
    given = states.snapshot(40, [])
    manifest = open_checkpoint(path).manifest

    assert path == tmp_path / "step-00000040"
    assert (manifest.step, manifest.tokens, manifest.chain) == (40, 40960, given.chain)
    assert (manifest.fingerprint, dict(manifest.parts)) == (given.fingerprint, dict(given.parts))


def test_sha256sum_checks_a_checkpoint(states, tmp_path):
    """`sha256sum -c --strict SHA256SUMS` passes, and fails after a change, without any tool of ours."""
    path = states.save(tmp_path, 40, 3)
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]

    assert subprocess.run(command, cwd=path, capture_output=True, check=False).returncode == 0

    (path / "trainer.json").write_bytes((path / "trainer.json").read_bytes() + b" ")

    assert subprocess.run(command, cwd=path, capture_output=True, check=False).returncode == 1


def test_the_safetensors_library_reads_every_file(states, tmp_path):
    """Whole tensors have their shape there, cut ones are 1-D ranges; BF16 and scalars are known to it."""
    state = [tensor for tensor in states.small() if tensor.dtype != "BF16"]
    one = load_file(states.save(tmp_path / "1", 8, 1, state) / "model-00001-of-00001.safetensors")
    two = states.save(tmp_path / "2", 8, 2, state)
    halves = [load_file(two / f"model-0000{rank}-of-00002.safetensors") for rank in (1, 2)]
    name = state[0].name

    assert one[name].tobytes() == state[0].values.tobytes()
    assert one[name].shape == (7, 5)
    assert one["counter"].shape == ()
    assert np.concatenate([half[name] for half in halves]).tobytes() == state[0].values.tobytes()
    assert halves[0][name].shape == (17,)


def test_the_safetensors_library_knows_our_types_and_metadata(states, tmp_path):
    """Every element type is one that the library names, and transformers' metadata is there."""
    state = [states.whole(f"t.{dtype}", "parameter", dtype, (3,), 1) for dtype in DTYPES]
    path = states.save(tmp_path, 8, 1, state) / "model-00001-of-00001.safetensors"
    with safe_open(path, framework="np") as file:
        found = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118

        assert file.metadata() == {"format": "pt"}

    assert found == {f"t.{dtype}": dtype for dtype in DTYPES}


def test_the_names_are_those_of_the_format(states, tmp_path):
    """A directory holds exactly the data files of its writers, manifest and SHA256SUMS, nothing hidden."""
    path = states.save(tmp_path, 40, 2)

    assert {entry.name for entry in path.iterdir()} == {*data_files(2), "manifest.json", "SHA256SUMS"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000040"]
    assert json.loads((path / "manifest.json").read_text())["format"] == "llmrun-checkpoint/1"


@pytest.mark.parametrize("umask", [0o000, 0o027, 0o077])
def test_files_follow_the_umask_and_are_never_world_writable(states, tmp_path, umask):
    """Modes are those of the umask, without the bit that lets everybody write."""
    before = os.umask(umask)
    try:
        path = states.save(tmp_path / "checkpoints", 8)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(entry.stat().st_mode) for entry in path.iterdir()}

    assert modes == {0o664 & ~umask}
    assert stat.S_IMODE(path.stat().st_mode) == 0o775 & ~umask


def test_without_any_checkpoint_nothing_is_found(tmp_path):
    """An empty or missing directory gives no checkpoint and no damage."""
    assert newest_sound(tmp_path) == (None, [])
    assert newest_sound(tmp_path / "missing") == (None, [])


def test_the_newest_sound_one_is_found_up_to_a_step(states, tmp_path):
    """Newest first; `step_max` leaves out what is above it; other names are never looked at."""
    for step in (8, 16, 24):
        states.save(tmp_path, step)
    (tmp_path / ".tmp-step-00000032-001").mkdir()
    (tmp_path / "abandoned-002").mkdir()
    (tmp_path / "step-032").mkdir()
    newest, damages = newest_sound(tmp_path)
    older, _ = newest_sound(tmp_path, step_max=23)

    assert newest is not None
    assert older is not None
    assert (newest.step, older.step, damages) == (24, 16, [])


def test_verifying_reports_progress_up_to_the_last_byte(states, tmp_path):
    """The callback sees rising byte counts that end at the size of all files but SHA256SUMS."""
    path = states.save(tmp_path, 8)
    seen = []
    total = sum(entry.stat().st_size for entry in path.iterdir() if entry.name != "SHA256SUMS")

    assert verify_files(path, progress=lambda done, of: seen.append((done, of))) == []
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (total, total)


def test_reading_a_share_needs_no_more_memory_than_the_share(states, tmp_path):
    """One rank of 64 reads its 256 KiB of a 16 MiB tensor, cut otherwise, within 1 MiB of Python's memory."""
    (tensor,) = state = [states.whole("w", "parameter", "F32", (4096, 1024), 1)]
    checkpoint = open_checkpoint(states.save(tmp_path, 8, 24, state))
    share = tensor.numel // 64
    tracemalloc.start()
    found = checkpoint.read("w", 5 * share, share)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert found.tobytes() == tensor.values[5 * share : 6 * share].tobytes()
    assert peak_bytes < 2**20


def test_verifying_needs_a_block_for_each_thread(states, tmp_path):
    """Verifying a 32 MiB file with one thread holds one block of 1 MiB."""
    state = [states.whole("w", "parameter", "F32", (8192, 1024), 1)]
    path = states.save(tmp_path, 8, 1, state)
    tracemalloc.start()
    damages = verify_files(path, threads=1)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert damages == []
    assert peak_bytes < 2 * 2**20
