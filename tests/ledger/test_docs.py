"""The format page is true: its example runs, its tables are those of the code."""

import re
from pathlib import Path

from llmrun.storage.ledger.compare import CAUSAL_ORDER
from llmrun.storage.ledger.record import QUANTITIES, RECORD_BYTES
from llmrun.storage.ledger.writer import RESERVE_RECORDS, LedgerReader

PAGE = (Path(__file__).parents[2] / "docs" / "ledger-format.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path, monkeypatch):
    """As it stands on the page."""
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "ledger-format.md", "exec"), {})

    assert LedgerReader(Path("ledger.bin")).record(2).tokens == 8192


def test_the_tables_are_those_of_the_code():
    """Words, bits and the causal order."""
    rows = re.findall(r"^\| (\d+) \| (\d+) \| `(\w+)` \|", PAGE, re.MULTILINE)
    order = re.findall(r"^\| \d \| `(\w+)` \| (.+?) \|$", PAGE, re.MULTILINE)

    assert rows == [(str(i), str(i), name) for i, name in enumerate(QUANTITIES)]
    assert [
        (field, quantity) for quantity, fields in order for field in re.findall(r"`(\w+)`", fields)
    ] == list(CAUSAL_ORDER)
    assert f"one record of {RECORD_BYTES} bytes" in PAGE
    assert f"at most {RESERVE_RECORDS:,} records" in PAGE
