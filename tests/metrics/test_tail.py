from pathlib import Path

from llmrun.storage.metrics.jsonl import JsonLines, Tail


def steps(tail: Tail) -> list[int]:
    return [row["step"] for row in tail.new_rows()]


def test_tail_gives_each_row_once(tmp_path: Path) -> None:
    """Rows come once, in order, as they are written; before the file exists there are none."""
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert steps(tail) == []

    lines = JsonLines(path)
    lines.open(0)
    lines.write({"step": 1})
    lines.write({"step": 2})
    assert steps(tail) == [1, 2]

    lines.write({"step": 3})
    assert steps(tail) == [3]
    assert steps(tail) == []


def test_torn_line_waits_for_its_end(tmp_path: Path) -> None:
    """A row that is half there is given when the other half has come."""
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    path.write_bytes(b'{"step": 1}\n{"st')
    assert steps(tail) == [1]

    with path.open("ab") as file:
        file.write(b'ep": 2}\n')
    assert steps(tail) == [2]


def test_file_that_was_cut_back_is_read_again(tmp_path: Path) -> None:
    """After a resume has cut the file the tail starts again, and misses no recomputed step."""
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    lines = JsonLines(path)
    lines.open(0)
    for step in (1, 2, 3):
        lines.write({"step": step})
    assert steps(tail) == [1, 2, 3]

    lines = JsonLines(path)
    lines.open(1)
    lines.write({"step": 2})
    lines.write({"step": 3})
    assert steps(tail) == [1, 2, 3]

    path.write_bytes(b'{"step": 1}\n')
    assert steps(tail) == [1]
