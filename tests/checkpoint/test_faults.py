"""The disk refuses, ranks die: the reader finds the old checkpoint or the new one, whole, and nothing else."""

import errno
import itertools
import os
import resource
import signal
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from llmrun.storage.checkpoint.errors import CheckpointWriteError
from llmrun.storage.checkpoint.layout import step_name, steps_in
from llmrun.storage.checkpoint.retention import abandon, delete, prune, sweep
from llmrun.storage.checkpoint.verification import newest_sound, verify_files
from llmrun.storage.checkpoint.writer import commit, discard, save_rank
from llmrun.storage.durable import Disk


def hidden(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir() if entry.name.startswith("."))


def found_whole(states, directory: Path, steps: set[int]) -> int:
    """The step that a reader finds, after checking that every final name is sound and holds its state."""
    for step in steps_in(directory):
        assert verify_files(directory / step_name(step)) == []
    newest, damages = newest_sound(directory)

    assert damages == []
    assert newest is not None
    assert newest.step in steps
    assert states.holds(newest, states.small(newest.step))

    return newest.step


def operations_of_a_save(states, directory: Path) -> int:
    """How many operations a save needs that nothing disturbs."""
    disk = states.FaultyDisk(0)
    states.save(directory, 16, disk=disk)
    return disk.count


def disturbed_save(states, directory: Path, step: int, attempt: str, disk) -> list[CheckpointWriteError]:
    """A save by two ranks on a failing disk: each goes on by itself, as processes do; the errors that came."""
    state = states.small(step)
    cuts = states.even_cuts(state, 2)
    errors = []
    for rank in (1, 0):
        saved = states.snapshot(step, states.pieces(state, cuts, rank), attempt)
        try:
            save_rank(directory, saved, rank, 2, disk)
            if rank == 0:
                commit(directory, saved, 2, 0.0, disk)
        except CheckpointWriteError as error:
            errors.append(error)
            if rank == 0:
                discard(directory, saved, disk)
    return errors


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_every_operation_may_fail(states, tmp_path, code, for_ever):
    """The n-th operation of a save fails, for every n: a typed error, old or new whole, the next save works."""
    total = operations_of_a_save(states, tmp_path / "count")
    ends = []
    for fails_at in range(1, total + 1):
        directory = tmp_path / str(fails_at)
        states.save(directory, 8, disk=states.quick)
        disk = states.FaultyDisk(fails_at, code, for_ever)
        errors = disturbed_save(states, directory, 16, "002", disk)
        ends.append(found_whole(states, directory, {8, 16}))

        assert errors
        assert all(error.errno in (code, None) for error in errors)
        assert for_ever or hidden(directory) == []

        states.save(directory, 24, attempt="003", disk=states.quick)

        assert found_whole(states, directory, {24}) == 24
        assert hidden(directory) == []

    assert total > 30
    assert ends == sorted(ends)
    assert set(ends) == {8, 16}


def test_a_rank_killed_at_any_operation_leaves_only_hidden_names(states, tmp_path):
    """A process that saves is killed before its n-th operation, for every n: old or new whole, `sweep` cleans."""
    total = operations_of_a_save(states, tmp_path / "count")
    ends = []
    for killed_at in range(1, total + 1):
        directory = tmp_path / str(killed_at)
        states.save(directory, 8, disk=states.quick)
        child = os.fork()
        if child == 0:
            disk = states.FaultyDisk(killed_at)
            disk.fail = lambda _name: os.kill(os.getpid(), signal.SIGKILL)
            states.save(directory, 16, disk=disk)
            os._exit(0)
        _, status = os.waitpid(child, 0)

        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL

        ends.append(found_whole(states, directory, {8, 16}))
        left = hidden(directory)

        assert left in ([], [".tmp-step-00000016-001"])
        assert sweep(directory) == []
        assert hidden(directory) == []

    assert set(ends) == {8, 16}


WORKS = {
    "delete": (lambda directory, disk: delete(directory, {8, 16} & {*steps_in(directory)}, disk), [24]),
    "prune": (lambda directory, disk: prune(directory, 1, disk=disk), [24]),
    "abandon": (lambda directory, disk: abandon(directory, 8, 2, disk), [8]),
}


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("work", WORKS)
def test_deleting_and_abandoning_may_fail_anywhere(states, tmp_path, work, code, for_ever):
    """The n-th operation of a deletion or a move fails, for every n: final names stay whole, the next try succeeds."""
    do, steps_left = WORKS[work]
    for fails_at in itertools.count(1):
        directory = tmp_path / str(fails_at)
        for step in (8, 16, 24):
            states.save(directory, step, disk=states.quick)
        disk = states.FaultyDisk(fails_at, code, for_ever)
        with suppress(OSError):
            do(directory, disk)

        assert found_whole(states, directory, {8, 16, 24})
        assert set(steps_in(directory)) >= set(steps_left)
        if disk.count < fails_at:
            break

        do(directory, states.quick)
        sweep(directory)

        assert steps_in(directory) == steps_left
        assert hidden(directory) == []

    assert fails_at > 5


def test_no_kind_of_operation_is_left_out(states, tmp_path):
    """A save, a deletion, a move and a sweep meet every operation of the disk that a test can make fail."""
    disk = states.FaultyDisk(0)
    for step in (8, 16, 24):
        states.save(tmp_path, step, disk=disk)
    delete(tmp_path, [8], disk)
    abandon(tmp_path, 16, 2, disk)
    (tmp_path / ".tmp-step-00000032-001").mkdir()
    sweep(tmp_path, disk=disk)
    not_here = {"open", "allocate"} | {"send"}  # the ledger's own; a hint that cannot fail, for large files

    assert set(disk.names) | not_here == {name for name in vars(Disk) if not name.startswith("_")}


def test_rank_0_waits_for_the_others(states, tmp_path):
    """The commit comes after the last rank's report, however late that is."""
    state = states.small(16)
    cuts = states.even_cuts(state, 3)
    saved = [states.snapshot(16, states.pieces(state, cuts, rank)) for rank in range(3)]
    for rank in (0, 1):
        save_rank(tmp_path, saved[rank], rank, 3)
    late = threading.Timer(0.2, save_rank, (tmp_path, saved[2], 2, 3))
    late.start()
    path = commit(tmp_path, saved[0], 3, timeout_s=30)
    late.join()

    assert verify_files(path) == []


def test_a_rank_that_never_reports_is_named(states, tmp_path):
    """Rank 0 gives up after its time limit, names the rank and removes the hidden directory."""
    saved = states.snapshot(16, [])
    for rank in (0, 2):
        save_rank(tmp_path, saved, rank, 3)
    with pytest.raises(CheckpointWriteError, match="step-00000016: rank 1 of 3"):
        commit(tmp_path, saved, 3, timeout_s=0.05)

    assert list(tmp_path.iterdir()) == []


def test_a_rank_whose_disk_is_full_tells_rank_0_at_once(states, tmp_path):
    """Rank 0 learns the cause from the report, long before its time limit, with the error number."""
    state = states.small(16)
    cuts = states.even_cuts(state, 2)
    saved = [states.snapshot(16, states.pieces(state, cuts, rank)) for rank in range(2)]
    disk = states.FaultyDisk(5, errno.ENOSPC)
    with pytest.raises(CheckpointWriteError, match=r"rank 1 .* step-00000016: No space left"):
        save_rank(tmp_path, saved[1], 1, 2, disk)
    save_rank(tmp_path, saved[0], 0, 2)
    with pytest.raises(CheckpointWriteError, match=r"rank 1 .* step-00000016") as raised:
        commit(tmp_path, saved[0], 2, timeout_s=3600)

    assert raised.value.disk_full
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_a_failed_rank_leaves_the_directory_to_the_others(states, tmp_path, rank):
    """Whichever rank meets a full disk: the other can still write, and only `discard` removes both parts."""
    with pytest.raises(CheckpointWriteError) as raised:
        save_rank(tmp_path, states.snapshot(16, []), rank, 2, states.FaultyDisk(6, errno.ENOSPC))
    save_rank(tmp_path, states.snapshot(16, []), 1 - rank, 2)

    assert raised.value.disk_full
    assert hidden(tmp_path) == [".tmp-step-00000016-001"]
    discard(tmp_path, states.snapshot(16, []))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_hints_at_retention(states, tmp_path):
    """The error of a full disk says what to do and can travel as JSON."""
    disk = states.FaultyDisk(3, errno.ENOSPC)
    with pytest.raises(CheckpointWriteError) as raised:
        save_rank(tmp_path, states.snapshot(16, []), 0, 1, disk)

    assert raised.value.hints == (
        "free space, or keep fewer checkpoints with `--set checkpoint.keep_last=1`",
    )
    assert raised.value.as_json()["exit_code"] == 4


def test_a_file_size_limit_is_a_full_disk(states, tmp_path):
    """EFBIG, as `ulimit -f` gives it, counts as full; EIO does not."""
    for code, full in ((errno.EFBIG, True), (errno.EDQUOT, True), (errno.EIO, False)):
        with pytest.raises(CheckpointWriteError) as raised:
            save_rank(tmp_path, states.snapshot(16, []), 0, 1, states.FaultyDisk(4, code))

        assert raised.value.disk_full == full
        assert raised.value.errno == code


def test_a_directory_removed_under_the_run_is_said(states, tmp_path):
    """Without the run's directory a save fails with a typed error and makes no new tree."""
    with pytest.raises(CheckpointWriteError, match=r"step-00000016: No such file or directory"):
        states.save(tmp_path / "gone" / "checkpoints", 16)

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_shrank_before_the_commit_is_noticed(states, tmp_path):
    """Rank 0 compares sizes on disk with the reports before anything gets a final name."""
    saved = states.snapshot(16, [])
    save_rank(tmp_path, saved, 0, 1)
    file = tmp_path / ".tmp-step-00000016-001" / "model-00001-of-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])

    with pytest.raises(CheckpointWriteError, match=r"model-00001-of-00001.safetensors"):
        commit(tmp_path, saved, 1, timeout_s=1)

    assert list(tmp_path.iterdir()) == []


def test_a_foreign_file_in_the_hidden_directory_stops_the_commit(states, tmp_path):
    """What does not belong there never gets a final name."""
    saved = states.snapshot(16, [])
    save_rank(tmp_path, saved, 0, 1)
    (tmp_path / ".tmp-step-00000016-001" / "core").write_bytes(b"")

    with pytest.raises(CheckpointWriteError, match="step-00000016-001/core "):
        commit(tmp_path, saved, 1, timeout_s=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{}", "the report lacks 'attempt'"),
        ('{"format": NaN}', "holds NaN"),
    ],
)
def test_a_damaged_report_stops_the_commit(states, tmp_path, text, message):
    """A report is read back as strictly as a manifest."""
    saved = states.snapshot(16, [])
    save_rank(tmp_path, saved, 0, 1)
    (tmp_path / ".tmp-step-00000016-001" / "rank-00001.json").write_text(text)

    with pytest.raises(CheckpointWriteError, match=message):
        commit(tmp_path, saved, 1, timeout_s=1)


def test_a_report_of_another_world_stops_the_commit(states, tmp_path):
    """Ranks that disagree about their number never commit."""
    saved = states.snapshot(16, [])
    save_rank(tmp_path, saved, 0, 2)

    with pytest.raises(CheckpointWriteError, match="the report"):
        commit(tmp_path, saved, 1, timeout_s=1)


def disagreements(states) -> dict[str, tuple[list, list, str]]:
    """Pieces of two ranks that do not make a state, and what is said."""
    one = states.whole("w", "parameter", "F32", (4,), 1)
    other = states.whole("w", "buffer", "F32", (4,), 1)
    larger = states.whole("w", "parameter", "F32", (5,), 1)

    def cut(tensor, start, stop):
        return states.pieces([tensor], {"w": [start, stop]}, 0)

    return {
        "gap": (cut(one, 0, 1), cut(one, 2, 4), "w must go on at element 1 "),
        "overlap": (cut(one, 0, 3), cut(one, 2, 4), "w must go on at element 3 "),
        "short": (cut(one, 0, 1), cut(one, 1, 3), "w must have 4 elements in its pieces, got 3"),
        "twice": (cut(one, 0, 4), cut(one, 0, 4), "w must go on at element 4 "),
        "descending": (cut(one, 2, 4), cut(one, 0, 2), "w must go on at element 0 "),
        "kind": (
            cut(one, 0, 2),
            cut(other, 2, 4),
            "rank 1 holds w as buffer F32 4, an earlier rank as parameter",
        ),
        "shape": (cut(one, 0, 2), cut(larger, 2, 5), "rank 1 holds w as parameter F32 5, an earlier rank as"),
    }


@pytest.mark.parametrize("case", ["gap", "overlap", "short", "twice", "descending", "kind", "shape"])
def test_pieces_that_do_not_fit_stop_the_commit(states, tmp_path, case):
    """Gaps, overlaps and disagreements of ranks never get a final name."""
    first, second, message = disagreements(states)[case]
    for rank, pieces in ((1, second), (0, first)):
        save_rank(tmp_path, states.snapshot(16, pieces), rank, 2)

    with pytest.raises(CheckpointWriteError) as raised:
        commit(tmp_path, states.snapshot(16, first), 2, timeout_s=1)

    assert message in raised.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_sound_checkpoint_of_the_step_is_kept(states, tmp_path):
    """A second save of a step leaves the first as it was."""
    path = states.save(tmp_path, 16)
    before = path.stat().st_ino

    assert states.save(tmp_path, 16, attempt="002") == path
    assert path.stat().st_ino == before
    assert hidden(tmp_path) == []


def test_a_damaged_checkpoint_of_the_step_makes_room(states, tmp_path):
    """A second save of a step replaces a damaged first, which is kept aside as evidence."""
    path = states.save(tmp_path, 16)
    (path / "trainer.json").write_bytes(b"")
    states.save(tmp_path, 16, attempt="002")

    assert found_whole(states, tmp_path, {16}) == 16
    assert (tmp_path / "abandoned-002" / path.name / "trainer.json").read_bytes() == b""


def test_a_stale_directory_does_not_disturb_the_next_save(states, tmp_path):
    """What a killed save left behind is swept before the next one, which works under another attempt."""
    save_rank(tmp_path, states.snapshot(16, []), 0, 2)
    states.save(tmp_path, 16, attempt="002")

    assert hidden(tmp_path) == []
    assert found_whole(states, tmp_path, {16}) == 16


def test_a_real_limit_of_the_system_leaves_the_old_checkpoint(states, tmp_path):
    """With `ulimit -f` at 1 MiB a save of 4 MiB is a full disk for the process; the old checkpoint stays."""
    states.save(tmp_path, 8)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            states.save(tmp_path, 16, 1, [states.whole("w", "parameter", "F32", (1024, 1024), 1)])
        except CheckpointWriteError as error:
            os._exit(10 if error.errno == errno.EFBIG and error.disk_full else 11)
        os._exit(12)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 10
    assert found_whole(states, tmp_path, {8}) == 8
    discard(tmp_path, states.snapshot(16, []))
    assert hidden(tmp_path) == []
