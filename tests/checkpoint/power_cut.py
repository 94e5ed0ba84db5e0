"""Every state that a power cut may leave, enumerated from the operations that were really done.

The model of the disk.  Bytes of a file are certain after its fsync; before that they may be lost, cut short, zeros,
or there with a hole before them, each file for itself.  A change of a directory's names is certain after the fsync
of that directory; before that it may have happened or not, whatever came before or after it.  A rename within a
directory is one change.  A cut may come after any operation.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llmrun.storage.durable import Disk

Tree = dict[Path, bytes | None]
"""Path to content; None for a directory."""


@dataclass(eq=False)
class File:
    """An inode of a file: what was written, and how much of it is certain."""

    content: bytes = b""
    certain: bytes = b""

    def write(self, at: int, block: bytes) -> None:
        """Put bytes somewhere, after zeros if there is a gap."""
        before = self.content[:at].ljust(at, b"\0")
        self.content = before + block + self.content[at + len(block) :]

    def variants(self) -> list[bytes]:
        """What a power cut may leave of the content, each once; first, that nothing is lost."""
        if self.content == self.certain:
            return [self.content]
        new = self.content
        start = common_prefix(new, self.certain)
        cuts = [start + (len(new) - start) * quarter // 4 for quarter in (1, 2, 3)]
        short = [new[:cut] for cut in cuts]
        holes = [new[:start] + bytes(cut - start) + new[cut:] for cut in (*cuts, len(new))]
        return list(dict.fromkeys([new, self.certain, *short, *holes]))


def common_prefix(one: bytes, other: bytes) -> int:
    """How many bytes two contents begin with together."""
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


@dataclass(eq=False)
class Directory:
    """An inode of a directory: the names that are certain."""

    certain: dict[str, "File | Directory"] = field(default_factory=dict)


Inode = File | Directory
Change = tuple[Directory, str, Inode | None]


class RecordingDisk(Disk):
    """Does every operation for real, and also keeps what a power cut could leave.

    enumerated: states of the disk, counted after every operation.
    seen:       those that differ to a reader, who never looks into hidden directories.
    names:      one for each set of names, hidden ones included.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.root_path = Directory(), root
        self.now: dict[Path, Inode] = {root: self.root}
        self.pending: list[tuple[Change, ...]] = []
        self.opened: dict[int, tuple[File, int]] = {}
        self.seen: dict[frozenset[tuple[Path, bytes | None]], Tree] = {}
        self.names: dict[frozenset[Path], Tree] = {}
        self.enumerated = 0
        self._adopt(root)

    def _adopt(self, path: Path) -> None:
        """Take over what is there as certain."""
        for entry in sorted(path.iterdir()):
            content = entry.read_bytes() if entry.is_file() else b""
            inode = Directory() if entry.is_dir() else File(content, content)
            self.now[entry] = inode
            self._directory(path).certain[entry.name] = inode
            if entry.is_dir():
                self._adopt(entry)

    def _directory(self, path: Path) -> Directory:
        inode = self.now[path]
        assert isinstance(inode, Directory)
        return inode

    def _change(self, *changes: tuple[Path, Inode | None]) -> None:
        self.pending.append(
            tuple((self._directory(path.parent), path.name, inode) for path, inode in changes)
        )
        self.note_states()

    def create(self, path: Path) -> int:
        """Create, and note it."""
        descriptor = super().create(path)
        file = self.now[path] = File()
        self.opened[descriptor] = (file, 0)
        self._change((path, file))
        return descriptor

    def open(self, path: Path) -> int:
        """Open, and remember what."""
        descriptor = super().open(path)
        file = self.now[path]
        assert isinstance(file, File)
        self.opened[descriptor] = (file, 0)
        return descriptor

    def allocate(self, descriptor: int, start: int, n_bytes: int) -> None:
        """Reserve room, and note the zeros."""
        super().allocate(descriptor, start, n_bytes)
        file, _ = self.opened[descriptor]
        file.content = file.content.ljust(start + n_bytes, b"\0")
        self.note_states()

    def write(self, descriptor: int, block: memoryview) -> None:
        """Write, and note it."""
        content = bytes(block)
        super().write(descriptor, block)
        file, at = self.opened[descriptor]
        file.write(at, content)
        self.opened[descriptor] = (file, at + len(content))
        self.note_states()

    def fsync(self, descriptor: int) -> None:
        """Make bytes certain, and note it."""
        super().fsync(descriptor)
        file, _ = self.opened[descriptor]
        file.certain = file.content
        self.note_states()

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
            self.remove_tree(entry) if entry.is_dir() else self.remove_file(entry)
        path.rmdir()
        del self.now[path]
        self._change((path, None))

    def note_states(self) -> None:
        """Keep every different state that a power cut may leave now."""
        for happened in histories(self.pending):
            for tree in contents(visible(self.root, happened, self.root_path)):
                self.seen.setdefault(frozenset(tree.items()), tree)
            everything = visible(self.root, happened, self.root_path, also_hidden=True)
            self.enumerated += sum(
                1 for _ in combinations([choices_of(inode) for inode in everything.values()])
            )
            if frozenset(everything) not in self.names:
                self.names[frozenset(everything)] = next(contents(everything))


def histories(pending: list[tuple[Change, ...]]) -> Iterator[list[tuple[Change, ...]]]:
    """Which of the pending changes have happened: all subsets of up to 8, else prefixes, single ones, all but one."""
    count = len(pending)
    if count <= 8:
        for size in range(count + 1):
            yield from map(list, itertools.combinations(pending, size))
        return
    for index in range(count):
        yield pending[:index]
        yield [pending[index]]
        yield pending[:index] + pending[index + 1 :]
    yield pending


def apply(changes: tuple[Change, ...]) -> None:
    """Make changes certain."""
    for directory, name, inode in changes:
        if inode is None:
            directory.certain.pop(name, None)
        else:
            directory.certain[name] = inode


def visible(
    root: Directory, happened: list[tuple[Change, ...]], path: Path, *, also_hidden: bool = False
) -> dict[Path, Inode]:
    """The names after a power cut.  What lies in hidden directories is left out: no reader looks there."""
    overlay: dict[int, dict[str, Inode]] = {}

    def names(directory: Directory) -> dict[str, Inode]:
        return overlay.setdefault(id(directory), dict(directory.certain))

    for changes in happened:
        for directory, name, inode in changes:
            if inode is None:
                names(directory).pop(name, None)
            else:
                names(directory)[name] = inode
    found: dict[Path, Inode] = {}

    def walk(directory: Directory, where: Path) -> None:
        for name, inode in names(directory).items():
            found[where / name] = inode
            if isinstance(inode, Directory) and (also_hidden or not name.startswith(".")):
                walk(inode, where / name)

    walk(root, path)
    return found


def contents(names: dict[Path, Inode]) -> Iterator[Tree]:
    """Every combination of what a power cut may leave in the files."""
    for chosen in combinations([choices_of(inode) for inode in names.values()]):
        yield dict(zip(names, chosen, strict=True))


def combinations(choices: list[list[bytes] | list[None]]) -> Iterator[tuple[bytes | None, ...]]:
    """All combinations of up to 1,000; else all files as written but one, which is in each of its states."""
    if math.prod(map(len, choices)) <= 1000:
        yield from itertools.product(*choices)
        return
    written = tuple(choice[0] for choice in choices)
    yield written
    for index, choice in enumerate(choices):
        for other in choice[1:]:
            yield (*written[:index], other, *written[index + 1 :])


def choices_of(inode: Inode) -> list[bytes] | list[None]:
    """What a power cut may leave of an inode; None for a directory."""
    return inode.variants() if isinstance(inode, File) else [None]


def opened_from(tree: Tree, source: Path, target: Path) -> Path:
    """The tree, written to a directory of its own."""
    target.mkdir(parents=True)
    for path, content in tree.items():
        place = target / path.relative_to(source)
        if content is None:
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    return target
