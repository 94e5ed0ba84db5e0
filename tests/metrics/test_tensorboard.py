import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from llmrun.errors import RunFailedError
from llmrun.storage.metrics.tensorboard import TensorBoard

TEXTS = {
    "config": "name: demo\nbatch: {GB_tok: 16Ki, μ_tok: 2Ki}\n",
    "git_commit": "abc",
    "pip_freeze": "a==1",
}


def opened(directory: Path, from_step: int, texts: dict[str, str], **given: Any) -> TensorBoard:
    board = TensorBoard(directory, **given)
    board.open(from_step)
    board.write_texts(texts)
    return board


def read(directory: Path) -> EventAccumulator:
    """TensorBoard's own reader on all files of a directory."""
    accumulator = EventAccumulator(str(directory), size_guidance={"tensors": 0})
    accumulator.Reload()
    return accumulator


def scalars(accumulator: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [
        (event.step, float(tensor_util.make_ndarray(event.tensor_proto)))
        for event in accumulator.Tensors(tag)
    ]


def write_steps(board: TensorBoard, first: int, last: int, loss: float) -> None:
    for step in range(first, last + 1):
        board.write({"step": step, "loss": loss, "mfu": None, "grad_norm": "Infinity"})


def test_tensorboard_reads_scalars_and_texts(tmp_path: Path) -> None:
    """TensorBoard finds each number under its name, no null, and the texts letter for letter."""
    board = opened(tmp_path / "tensorboard", 0, TEXTS, clock=lambda: 1000.0)
    write_steps(board, 1, 3, loss=0.5)
    board.close()
    found = read(tmp_path / "tensorboard")

    assert sorted(found.Tags()["tensors"]) == ["config", "git_commit", "grad_norm", "loss", "pip_freeze"]
    assert scalars(found, "loss") == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert scalars(found, "grad_norm")[0] == (1, float("inf"))
    assert found.Tensors("config")[0].wall_time == 1000.0
    [text] = tensor_util.make_ndarray(found.Tensors("config")[0].tensor_proto)
    assert text.decode() == f"```\n{TEXTS['config'].rstrip()}\n```"
    assert found.SummaryMetadata("config").plugin_data.plugin_name == "text"


def test_resume_purges_later_steps(tmp_path: Path) -> None:
    """After a resume at step 4 TensorBoard shows each step once, those above 4 from the new segment."""
    for from_step, last, loss in ((0, 8, 1.0), (4, 6, 2.0), (5, 9, 3.0)):
        board = opened(tmp_path, from_step, TEXTS)
        write_steps(board, from_step + 1, last, loss)
        board.close()
    found = read(tmp_path)

    ones, twos, threes = [1, 2, 3, 4], [5], [6, 7, 8, 9]
    expected = [(s, 1.0) for s in ones] + [(s, 2.0) for s in twos] + [(s, 3.0) for s in threes]
    assert scalars(found, "loss") == expected


def test_resume_from_nothing_purges_all(tmp_path: Path) -> None:
    """A run that was killed before its first checkpoint starts again at step 1."""
    for loss in (1.0, 2.0):
        board = opened(tmp_path, 0, {})
        write_steps(board, 1, 3, loss)
        board.close()

    assert scalars(read(tmp_path), "loss") == [(1, 2.0), (2, 2.0), (3, 2.0)]


def test_events_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    """An event is on disk when `write` returns, and a reader that keeps reading sees a resume."""
    board = opened(tmp_path, 0, {})
    write_steps(board, 1, 5, loss=1.0)
    reader = read(tmp_path)
    assert [step for step, _ in scalars(reader, "loss")] == [1, 2, 3, 4, 5]

    resumed = opened(tmp_path, 2, {})
    write_steps(resumed, 3, 3, loss=2.0)
    reader.Reload()
    assert scalars(reader, "loss") == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """A file of events that cannot be opened is named."""
    (tmp_path / "events.out.tfevents.00001").mkdir()
    with pytest.raises(RunFailedError, match=r"events\.out.tfevents\.00001: Is a directory"):
        opened(tmp_path, 0, {})


def test_import_costs_nothing() -> None:
    """Importing all of metrics loads neither torch nor tensorboard nor rich."""
    script = (
        "import sys, llmrun.storage.metrics.sink, llmrun.storage.metrics.tensorboard, llmrun.cli.live_view, llmrun.storage.metrics.throughput\n"
        "print(sorted({'torch', 'tensorboard', 'rich', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)

    assert result.stdout == "[]\n"
