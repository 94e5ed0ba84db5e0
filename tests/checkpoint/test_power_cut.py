"""Every state that a power cut may leave of a save, a deletion, a move, and of recovering from one: none loses anything."""

from pathlib import Path

import pytest

from checkpoint.power_cut import RecordingDisk, opened_from
from llmrun.storage.checkpoint.layout import step_of, steps_in
from llmrun.storage.checkpoint.retention import abandon, delete, prune, sweep
from llmrun.storage.checkpoint.verification import newest_sound, verify_files
from llmrun.storage.ledger.record import QUANTITIES, LedgerRecord, quantities_due
from llmrun.storage.ledger.writer import LedgerReader, LedgerWriter


def steps_found(states, disk: RecordingDisk, scratch: Path) -> list[int]:
    """The newest step in every state, each after checking that all final names are whole and hold their state."""
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


@pytest.fixture
def counted(record_property):
    """Tells the end of the test session how many states a piece of work has."""

    def count(work: str, *disks: RecordingDisk, n_before: int = 0) -> None:
        n_states = sum(disk.enumerated for disk in disks)
        n_shown = n_before + sum(len(disk.seen) for disk in disks)
        message = f"{work}: {n_states:,} states of a power cut, {n_shown:,} different to a reader, 0 losses"
        record_property("crash states", message)

    return count


@pytest.mark.parametrize("world", [1, 2])
def test_every_power_cut_while_saving_leaves_old_or_new(states, tmp_path, counted, world):
    """All states of a save show the old checkpoint or the new one whole; once it returned, only the new one."""
    directory = tmp_path / "checkpoints"
    states.save(directory, 8, disk=states.quick)
    disk = RecordingDisk(directory)
    states.save(directory, 16, world, disk=disk)
    found = steps_found(states, disk, tmp_path / "states")

    assert set(found) == {8, 16}
    assert disk.enumerated > 500
    counted(f"save, D = {world}", disk)

    disk.seen.clear()
    disk.note_states()

    assert steps_found(states, disk, tmp_path / "after") == [16]


def test_every_power_cut_while_replacing_a_damaged_one(states, tmp_path, counted):
    """A damaged checkpoint of the step is moved aside before the new one gets its name: never both lost."""
    directory = tmp_path / "checkpoints"
    for step in (8, 16):
        states.save(directory, step, disk=states.quick)
    (directory / "step-00000016" / "trainer.json").write_bytes(b"")
    disk = RecordingDisk(directory)
    states.save(directory, 16, attempt="002", disk=disk)
    for number, tree in enumerate(disk.seen.values()):
        newest, _ = newest_sound(opened_from(tree, directory, tmp_path / "states" / str(number)))

        assert newest is not None
        assert states.holds(newest, states.small(newest.step))

    counted("save over a damaged checkpoint", disk)


@pytest.mark.parametrize("work", ["delete", "abandon"])
def test_every_power_cut_while_deleting_leaves_whole_ones(states, tmp_path, counted, work):
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
    counted(f"{work} two of three", disk)


def test_every_power_cut_in_a_life_of_saves_and_deletions(states, tmp_path, counted):
    """Save, prune, save, prune without a pause, removals never forced to the disk: the newest never goes back."""
    directory = tmp_path / "checkpoints"
    states.save(directory, 8, disk=states.quick)
    disk = RecordingDisk(directory)
    floor, n_shown = 8, 0
    for step in (16, 24, 32):
        states.save(directory, step, 1, disk=disk)
        prune(directory, 1, disk=disk)
        found = steps_found(states, disk, tmp_path / str(step))

        assert set(found) == {floor, step}
        floor = step
        n_shown += len(found)
        disk.seen.clear()

    assert steps_in(directory) == [32]
    counted("three saves with retention", disk, n_before=n_shown)


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 12])
def test_every_power_cut_while_recovering_from_one(states, tmp_path, counted, every):
    """Whatever names a first cut left: every state of the sweep and the second save shows the old or the new one."""
    directory = tmp_path / "checkpoints"
    states.save(directory, 8, disk=states.quick)
    first = RecordingDisk(directory)
    states.save(directory, 16, 1, disk=first)
    recovered = []
    for number, tree in enumerate(list(first.names.values())[::every]):
        again = opened_from(tree, directory, tmp_path / "again" / str(number))
        disk = RecordingDisk(again)
        disk.note_states()
        sweep(again, disk=disk)
        states.save(again, 24, 1, attempt="002", disk=disk)
        found = steps_found(states, disk, tmp_path / "states" / str(number))

        assert set(found) in ({8, 24}, {16, 24})
        recovered.append(disk)

    assert len(recovered) > 40 // every
    counted(f"sweep and save after {len(recovered)} different cuts", *recovered)


def record_of(step: int) -> LedgerRecord:
    """A ledger record that depends on its step alone."""
    values = dict.fromkeys(QUANTITIES, step) | {
        "loss": 1.0 / (step + 1),
        "grad_norm": 1.0,
        "learning_rate": 1e-3,
    }
    return LedgerRecord(**{name: values[name] for name in quantities_due(step)})


def test_every_power_cut_leaves_a_ledger_that_reaches_its_checkpoint(states, tmp_path, counted):
    """Records are forced to the disk before the commit: in no state does a checkpoint lie beyond the ledger."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").mkdir()
    disk = RecordingDisk(run)
    ledger = LedgerWriter.create(run / "ledger.bin", "tests", 8, disk=disk)
    chains = {}
    for step in range(9):
        chains[step] = ledger.append(record_of(step)).chain
        if step in (4, 8):
            ledger.sync()
            states.save(run / "checkpoints", step, 1, disk=disk)
    ledger.close()
    newest = set()
    for number, tree in enumerate(disk.seen.values()):
        place = opened_from(tree, run, tmp_path / "states" / str(number))
        steps = steps_in(place / "checkpoints")
        newest.add(max(steps, default=None))
        if steps:
            reader = LedgerReader(place / "ledger.bin")

            assert reader.last_step >= steps[-1]
            assert reader.chain_at(steps[-1]) == chains[steps[-1]]

    assert newest == {None, 4, 8}
    counted("ledger and saves", disk)


@pytest.mark.parametrize("forgotten", ["fsync", "fsync_directory"])
def test_the_model_finds_a_missing_fsync(states, tmp_path, forgotten):
    """Without the fsync of files, or of directories, the same enumeration finds losses: it can fail."""

    class Careless(RecordingDisk):
        """Forgets one kind of fsync."""

    setattr(Careless, forgotten, lambda _disk, _subject: None)
    directory = tmp_path / "checkpoints"
    states.save(directory, 8, disk=states.quick)
    disk = Careless(directory)
    states.save(directory, 16, disk=disk)
    disk.note_states()
    unsound = [
        tree
        for number, tree in enumerate(disk.seen.values())
        for path in [opened_from(tree, directory, tmp_path / "states" / str(number))]
        for entry in path.iterdir()
        if step_of(entry.name) is not None and verify_files(entry)
    ]

    assert unsound
