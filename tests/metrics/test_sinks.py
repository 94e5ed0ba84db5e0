from collections.abc import Mapping
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from llmrun.errors import DiskFullError
from llmrun.storage.metrics.jsonl import JsonLines, Row, rows
from llmrun.storage.metrics.sink import MetricsSink, MetricsSinks
from llmrun.storage.metrics.tensorboard import TensorBoard

METHODS = ("open", "write_texts", "write", "sync", "close")


class Broken:
    """A sink whose method `method` raises `error`; calls are noted."""

    name = "elsewhere"

    def __init__(self, method: str, error: Exception) -> None:
        self.method, self.error = method, error
        self.calls: list[str] = []

    def _called(self, method: str) -> None:
        self.calls.append(method)
        if method == self.method:
            raise self.error

    def open(self, from_step: int) -> None:
        self._called("open")

    def write_texts(self, texts: Mapping[str, str]) -> None:
        self._called("write_texts")

    def write(self, row: Row) -> None:
        self._called("write")

    def sync(self) -> None:
        self._called("sync")

    def close(self) -> None:
        self._called("close")


def segment(
    sinks: list[MetricsSink], from_step: int, last: int, loss: float, warnings: list[str] | None = None
) -> None:
    """One segment: steps `from_step` + 1 … `last`, a sync and the end."""
    warn = pytest.fail if warnings is None else warnings.append
    opened = MetricsSinks.open(sinks, from_step, {"config": "x"}, warn)
    for step in range(from_step + 1, last + 1):
        opened.write({"step": step, "loss": loss})
    opened.sync()
    opened.close()


def both(directory: Path) -> list[MetricsSink]:
    return [JsonLines(directory / "metrics.jsonl"), TensorBoard(directory / "tensorboard")]


def test_both_sinks_hold_the_same_steps_after_a_resume(tmp_path: Path) -> None:
    """Killed at step 6 and resumed from step 4, both hold steps 1 … 8 once, 5 … 8 from the resumed segment."""
    segment(both(tmp_path), 0, 6, loss=1.0)
    segment(both(tmp_path), 4, 8, loss=2.0)
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()

    expected = [(step, 1.0 if step <= 4 else 2.0) for step in range(1, 9)]
    assert [(row["step"], row["loss"]) for row in rows(tmp_path / "metrics.jsonl")] == expected
    drawn = [(event.step, event.tensor_proto.float_val[0]) for event in accumulator.Tensors("loss")]
    assert drawn == expected


@pytest.mark.parametrize("method", METHODS)
def test_a_sink_that_fails_is_dropped_with_one_warning(tmp_path: Path, method: str) -> None:
    """Whatever method raises: one warning that names the sink, no further call but `close`, and the others go on."""
    broken = Broken(method, RuntimeError("unreachable"))
    warnings: list[str] = []
    segment([broken, JsonLines(tmp_path / "metrics.jsonl")], 0, 3, loss=1.0, warnings=warnings)

    assert [row["step"] for row in rows(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert len(warnings) == 1
    assert "elsewhere" in warnings[0]
    assert "unreachable" in warnings[0]
    assert broken.calls.count(method) == (2 if method == "close" else 1)
    assert broken.calls[-1] == "close"


def test_metrics_jsonl_that_cannot_be_opened_does_not_stop_training(tmp_path: Path) -> None:
    """The run's own file is a sink as any other: a warning, and TensorBoard goes on."""
    (tmp_path / "metrics.jsonl").mkdir()
    warnings: list[str] = []
    segment(both(tmp_path), 0, 2, loss=1.0, warnings=warnings)
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()

    assert [event.step for event in accumulator.Tensors("loss")] == [1, 2]
    assert len(warnings) == 1
    assert "metrics.jsonl" in warnings[0]


def test_rows_that_wait_for_a_full_disk_hold_a_checkpoint_back(tmp_path: Path) -> None:
    """A full disk is not a failed sink: `sync` raises until there is room, and the sink stays."""
    full = Broken("sync", DiskFullError("full"))
    warnings: list[str] = []
    sinks = MetricsSinks.open([full], 0, {}, warnings.append)
    sinks.write({"step": 1})
    for _ in range(2):
        with pytest.raises(DiskFullError):
            sinks.sync()
    full.method = ""
    sinks.sync()
    sinks.close()

    assert warnings == []
    assert full.calls == ["open", "write_texts", "write", "sync", "sync", "sync", "close"]


def test_only_the_sinks_given_write(tmp_path: Path) -> None:
    """metrics.jsonl alone leaves nothing of TensorBoard."""
    segment([JsonLines(tmp_path / "metrics.jsonl")], 0, 2, loss=1.0)

    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
