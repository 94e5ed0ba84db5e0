"""Every state that a power cut may leave, enumerated from the operations that a save really did.

The model of the disk: bytes of a file are certain after its fsync, before that they may be absent, half
there, or zeros; a change of a directory's names is certain after the fsync of that directory, before that
each change may be there or not, whatever came after it.  A rename within a directory is one change.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llmrun.checkpoint.layout import step_of, steps_in
from llmrun.checkpoint.reader import newest_sound, verify_files
from llmrun.checkpoint.retention import abandon, delete
from llmrun.durable import Disk

Tree = dict[Path, bytes | None]
"""Path to content; None for a directory."""


@dataclass(eq=False)
class File:
    """An inode of a file: what was written, and how much of it is certain."""

    content: bytes = b""
    certain: bytes = b""

    def variants(self) -> list[bytes]:
        """What a power cut may leave of the content."""
        if self.content == self.certain:
            return [self.content]
        half = self.content[: len(self.content) // 2]
        return [self.certain, half, self.content, bytes(len(self.content))]


@dataclass(eq=False)
class Directory:
    """An inode of a directory: the names that are certain."""

    certain: dict[str, "File | Directory"] = field(default_factory=dict)


Change = tuple[Directory, str, "File | Directory | None"]


class RecordingDisk(Disk):
    """Does every operation for real, and keeps beside it what a power cut could leave."""

    def __init__(self, root: Path) -> None:
        self.root = Directory()
        self.root_path = root
        self.now: dict[Path, File | Directory] = {root: self.root}
        self.pending: list[tuple[Change, ...]] = []
        self.descriptors: dict[int, File] = {}
        self.seen: dict[frozenset[tuple[Path, bytes | None]], Tree] = {}
        self.enumerated = 0
        self._adopt(root)

    def _adopt(self, path: Path) -> None:
        """Take over what is there as certain."""
        for entry in sorted(path.iterdir()):
            content = entry.read_bytes() if entry.is_file() else b""
            inode = Directory() if entry.is_dir() else File(content, content)
            self.now[entry] = inode
            self.now[path].certain[entry.name] = inode
            if entry.is_dir():
                self._adopt(entry)

    def _change(self, *changes: tuple[Path, File | Directory | None]) -> None:
        self.pending.append(tuple((self.now[path.parent], path.name, inode) for path, inode in changes))
        self.note_states()

    def create(self, path: Path) -> int:
        """Create, and note it."""
        descriptor = super().create(path)
        self.now[path] = self.descriptors[descriptor] = File()
        self._change((path, self.now[path]))
        return descriptor

    def write(self, descriptor: int, block: memoryview) -> None:
        """Write, and note it."""
        super().write(descriptor, block)
        self.descriptors[descriptor].content += bytes(block)
        self.note_states()

    def fsync(self, descriptor: int) -> None:
        """Make bytes certain, and note it."""
        super().fsync(descriptor)
        self.descriptors[descriptor].certain = self.descriptors[descriptor].content

    def rename(self, old: Path, new: Path) -> None:
        """Move an inode and all below it, and note it."""
        super().rename(old, new)
        moved = {path: inode for path, inode in self.now.items() if path == old or old in path.parents}
        for path, inode in moved.items():
            del self.now[path]
            self.now[new / path.relative_to(old)] = inode
        self._change((old, None), (new, self.now[new]))

    def fsync_directory(self, path: Path) -> None:
        """Make names certain, and note it."""
        super().fsync_directory(path)
        directory = self.now[path]
        kept = []
        for changes in self.pending:
            if any(where is directory for where, _, _ in changes):
                apply(changes)
            else:
                kept.append(changes)
        self.pending = kept
        self.note_states()

    def make_directory(self, path: Path) -> None:
        """Make a directory, and note it."""
        super().make_directory(path)
        self.now[path] = Directory()
        self._change((path, self.now[path]))

    def remove_file(self, path: Path) -> None:
        """Remove a name, and note it."""
        existed = path.exists()
        super().remove_file(path)
        if existed:
            del self.now[path]
            self._change((path, None))

    def remove_tree(self, path: Path) -> None:
        """Remove names one by one, and note it."""
        for entry in sorted(path.iterdir()):
            self.remove_file(entry)
        path.rmdir()
        del self.now[path]
        self._change((path, None))

    def note_states(self) -> None:
        """Keep every different state that a power cut may leave now."""
        for chosen in subsets(len(self.pending)):
            for variant in range(4):
                tree = visible(self.root, [self.pending[index] for index in chosen], variant, self.root_path)
                self.enumerated += 1
                self.seen.setdefault(frozenset(tree.items()), tree)


def subsets(count: int) -> Iterator[tuple[int, ...]]:
    """Which pending changes have happened: all subsets of up to 6, else each prefix, each one alone, all but one."""
    everything = range(count)
    if count <= 6:
        for size in range(count + 1):
            yield from itertools.combinations(everything, size)
        return
    for index in everything:
        yield tuple(range(index))
        yield (index,)
        yield tuple(other for other in everything if other != index)
    yield tuple(everything)


def apply(changes: tuple[Change, ...]) -> None:
    for directory, name, inode in changes:
        if inode is None:
            directory.certain.pop(name, None)
        else:
            directory.certain[name] = inode


def visible(root: Directory, happened: list[tuple[Change, ...]], variant: int, path: Path) -> Tree:
    """The tree after a power cut.  Hidden names keep no content: no reader looks at it."""
    overlay: dict[int, dict[str, File | Directory]] = {}

    def names(directory: Directory) -> dict[str, File | Directory]:
        return overlay.setdefault(id(directory), dict(directory.certain))

    for changes in happened:
        for directory, name, inode in changes:
            if inode is None:
                names(directory).pop(name, None)
            else:
                names(directory)[name] = inode
    tree: Tree = {}

    def walk(directory: Directory, where: Path) -> None:
        for name, inode in names(directory).items():
            if isinstance(inode, File):
                tree[where / name] = inode.variants()[min(variant, len(inode.variants()) - 1)]
            else:
                tree[where / name] = None
                if not name.startswith("."):
                    walk(inode, where / name)

    walk(root, path)
    return tree


def opened_from(tree: Tree, source: Path, target: Path) -> Path:
    """The tree, written to a directory of its own."""
    for path, content in tree.items():
        place = target / path.relative_to(source)
        if content is None:
            place.mkdir(parents=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    return target


def steps_found(states, disk: RecordingDisk, scratch: Path) -> list[int]:
    """The newest step in every state, each after checking that all final names are whole."""
    found = []
    for number, tree in enumerate(disk.seen.values()):
        directory = opened_from(tree, disk.root_path, scratch / str(number))
        for step in steps_in(directory):
            assert verify_files(directory / f"step-{step:08d}") == [], sorted(tree)
        newest, _ = newest_sound(directory)

        assert newest is not None
        assert states.holds(newest, states.small(newest.step))

        found.append(newest.step)
    return found


@pytest.mark.parametrize("world", [1, 2])
def test_every_power_cut_while_saving_leaves_old_or_new(states, tmp_path, world):
    """All states of a save show the old checkpoint or the new one whole; once it returned, only the new one."""
    directory = tmp_path / "checkpoints"
    states.save(directory, 8, disk=states.quick)
    disk = RecordingDisk(directory)
    states.save(directory, 16, world, disk=disk)
    found = steps_found(states, disk, tmp_path / "states")

    assert set(found) == {8, 16}
    assert disk.enumerated > 1000
    print(f"{disk.enumerated} states, {len(found)} different to a reader, 0 losses")

    disk.seen.clear()
    disk.note_states()

    assert steps_found(states, disk, tmp_path / "after") == [16]


@pytest.mark.parametrize("work", ["delete", "abandon"])
def test_every_power_cut_while_deleting_leaves_whole_ones(states, tmp_path, work):
    """No state shows a part of a checkpoint under its final name, and the one to keep is always there."""
    directory = tmp_path / "checkpoints"
    for step in (8, 16, 24):
        states.save(directory, step, disk=states.quick)
    disk = RecordingDisk(directory)
    if work == "delete":
        delete(directory, [8, 16], disk)
    else:
        abandon(directory, 8, 2, disk)
    found = steps_found(states, disk, tmp_path / "states")

    assert set(found) == ({24} if work == "delete" else {8, 16, 24})


def test_the_model_finds_a_missing_fsync(states, tmp_path):
    """Without the fsync of files, the same enumeration finds unsound checkpoints: it can fail."""

    class Careless(RecordingDisk):
        def fsync(self, descriptor: int) -> None:
            """Forget it."""

    directory = tmp_path / "checkpoints"
    states.save(directory, 8, disk=states.quick)
    disk = Careless(directory)
    states.save(directory, 16, disk=disk)
    unsound = [
        tree
        for number, tree in enumerate(disk.seen.values())
        for path in [opened_from(tree, directory, tmp_path / "states" / str(number))]
        for entry in path.iterdir()
        if step_of(entry.name) is not None and verify_files(entry)
    ]

    assert unsound
