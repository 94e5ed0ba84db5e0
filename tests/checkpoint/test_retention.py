"""Retention keeps what it promises, and never deletes the only sound checkpoint."""

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.storage.checkpoint.layout import steps_in
from llmrun.storage.checkpoint.retention import abandon, prune, sweep, to_delete
from llmrun.storage.durable import Disk

STEPS = st.lists(st.integers(0, 200), unique=True, max_size=12)


@given(
    STEPS,
    st.integers(1, 5),
    st.none() | st.integers(0, 200),
    st.none() | st.integers(1, 50),
    st.sets(st.integers(0, 200), max_size=3),
)
def test_what_is_promised_is_kept_and_nothing_else(steps, last_k, best_step, every_n, protected):
    """Kept are exactly the newest k, the best, the multiples of n and the protected."""
    deleted = to_delete(steps, last_k, best_step, every_n, protected)
    kept = set(steps) - set(deleted)
    newest = set(sorted(steps)[-last_k:])

    assert deleted == sorted(set(deleted))
    assert set(deleted) <= set(steps)
    assert newest <= kept
    assert protected & set(steps) <= kept
    assert all(
        step in newest or step == best_step or step in protected or (every_n and step % every_n == 0)
        for step in kept
    )
    assert best_step not in deleted
    assert every_n is None or not any(step % every_n == 0 for step in deleted)


@given(STEPS, st.integers(1, 5), st.integers(1, 5))
def test_deleting_twice_deletes_nothing_more(steps, last_k, more):
    """What is kept stays kept, also under a rule that keeps more."""
    kept = set(steps) - set(to_delete(steps, last_k))

    assert to_delete(kept, last_k) == []
    assert to_delete(kept, last_k + more) == []


def saved(states, directory, *steps):
    for step in steps:
        states.save(directory, step, disk=states.quick)
    return directory


def test_pruning_deletes_the_surplus(states, tmp_path):
    """The newest two, the best and the multiples of 20 stay; nothing hidden is left."""
    directory = saved(states, tmp_path, 8, 16, 20, 24, 32, 40)
    pruned = prune(directory, last_k=2, best_step=16, every_n=20)

    assert pruned.deleted == (8, 24)
    assert pruned.kept == (16, 20, 32, 40)
    assert steps_in(directory) == [16, 20, 32, 40]
    assert len(list(directory.iterdir())) == 4


def test_a_dry_run_deletes_nothing(states, tmp_path):
    """A dry run says the same as a real one and leaves the disk alone."""
    directory = saved(states, tmp_path, 8, 16)

    assert prune(directory, last_k=1, dry_run=True).deleted == (8,)
    assert steps_in(directory) == [8, 16]


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "manifest.json", "SHA256SUMS"])
def test_nothing_is_deleted_while_the_newest_is_damaged(states, tmp_path, name):
    """The successor is read from disk first: if it is damaged the older ones stay, and the file is named."""
    directory = saved(states, tmp_path, 8, 16, 24)
    file = directory / "step-00000024" / name
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    pruned = prune(directory, last_k=1)

    assert pruned.deleted == ()
    assert [damage.file for damage in pruned.damages] == [name]
    assert steps_in(directory) == [8, 16, 24]


def test_a_leftover_of_a_deletion_does_not_disturb_the_next(states, tmp_path):
    """A deletion that was killed leaves a hidden directory; the same step can be deleted again."""
    directory = saved(states, tmp_path, 8, 16)
    (directory / ".tmp-delete-step-00000008").mkdir()
    (directory / ".tmp-delete-step-00000008" / "half").write_bytes(b"x")

    assert prune(directory, last_k=1).deleted == (8,)
    assert steps_in(directory) == [16]
    assert (directory / ".tmp-delete-step-00000008" / "half").exists()
    assert sweep(directory) == []
    assert [entry.name for entry in directory.iterdir()] == ["step-00000016"]


class HoldingDisk(Disk):
    """A disk that removes nothing with a hidden name: it is immutable, or another client holds it open."""

    def remove_tree(self, path: Path) -> None:
        """Refuse."""
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    def remove_file(self, path: Path) -> None:
        """Refuse hidden ones."""
        if path.name.startswith(".tmp-") and path.exists():
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        super().remove_file(path)


def test_what_cannot_be_removed_stops_nothing(states, tmp_path):
    """The final names are gone, what is left is named, later deletions and sweeps go on, and it goes in the end."""
    directory = saved(states, tmp_path, 8, 16, 24)
    (directory / ".tmp-file").write_bytes(b"")
    pruned = prune(directory, last_k=1, disk=HoldingDisk())

    assert pruned.deleted == (8, 16)
    assert pruned.left == (".tmp-delete-step-00000008", ".tmp-delete-step-00000016")
    assert steps_in(directory) == [24]
    assert sweep(directory, disk=HoldingDisk()) == [*pruned.left, ".tmp-file"]

    states.save(directory, 8, disk=HoldingDisk())
    pruned = prune(directory, last_k=1, disk=HoldingDisk())

    assert pruned.left == (".tmp-delete-step-00000008.2",)
    assert sweep(directory) == []
    assert [entry.name for entry in directory.iterdir()] == ["step-00000024"]


def test_sweeping_removes_hidden_names_only(states, tmp_path):
    """Hidden directories, files and links go, what they point at stays, and so does everything else."""
    directory = saved(states, tmp_path / "checkpoints", 8)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"")
    (directory / ".tmp-step-00000016-001").mkdir()
    (directory / ".tmp-step-00000016-001" / "model").write_bytes(b"")
    (directory / ".tmp-file").write_bytes(b"")
    (directory / ".tmp-link").symlink_to(outside)
    (directory / ".other").write_bytes(b"")

    assert sweep(directory) == []
    assert sorted(entry.name for entry in directory.iterdir()) == [".other", "step-00000008"]
    assert (outside / "kept").exists()
    assert sweep(tmp_path / "missing") == []


def test_abandoning_moves_all_above_a_step(states, tmp_path):
    """Checkpoints above the start step lie in abandoned-<segment>/ with their names, damaged ones too."""
    directory = saved(states, tmp_path, 8, 16, 24)
    (directory / "step-00000024" / "manifest.json").unlink()

    assert abandon(directory, above_step=8, segment=3) == [16, 24]
    assert steps_in(directory) == [8]
    assert sorted(entry.name for entry in (directory / "abandoned-003").iterdir()) == [
        "step-00000016",
        "step-00000024",
    ]


def test_abandoning_again_overwrites_nothing(states, tmp_path):
    """A step that lies in abandoned-<segment>/ already stays, the second gets a number."""
    directory = saved(states, tmp_path, 8, 16)
    abandon(directory, above_step=8, segment=3)
    saved(states, directory, 16)
    abandon(directory, above_step=8, segment=3)

    assert sorted(entry.name for entry in (directory / "abandoned-003").iterdir()) == [
        "step-00000016",
        "step-00000016.2",
    ]
    assert abandon(directory, above_step=8, segment=3) == []
