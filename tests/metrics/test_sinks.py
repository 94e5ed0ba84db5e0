from pathlib import Path

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from llmrun.storage.metrics.jsonl import rows
from llmrun.storage.metrics.sink import Sinks


def segment(directory: Path, from_step: int, last: int, loss: float, board: bool = True) -> None:
    sinks = Sinks.open(
        directory / "metrics.jsonl", directory / "tensorboard" if board else None, from_step, {"config": "x"}
    )
    for step in range(from_step + 1, last + 1):
        sinks.record({"step": step, "loss": loss})
    sinks.sync()
    sinks.close()


def test_both_sinks_hold_the_same_steps_after_a_resume(tmp_path: Path) -> None:
    """Killed at step 6 and resumed from step 4, both hold steps 1 … 8 once, 5 … 8 from the resumed segment."""
    segment(tmp_path, 0, 6, loss=1.0)
    segment(tmp_path, 4, 8, loss=2.0)
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()

    expected = [(step, 1.0 if step <= 4 else 2.0) for step in range(1, 9)]
    assert [(row["step"], row["loss"]) for row in rows(tmp_path / "metrics.jsonl")] == expected
    drawn = [(event.step, event.tensor_proto.float_val[0]) for event in accumulator.Tensors("loss")]
    assert drawn == expected


def test_without_tensorboard_nothing_of_it_is_written(tmp_path: Path) -> None:
    """metrics.jsonl alone."""
    segment(tmp_path, 0, 2, loss=1.0, board=False)

    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
