"""Accelerators that a user adds."""

from pathlib import Path

import pytest

from llmrun.config.load import load_config
from llmrun.config.resolve import MachineFacts, resolve
from llmrun.errors import ConfigError, InputError, Place
from llmrun.plan.hardware import accelerator_named, hardware_table, read_rows
from llmrun.plan.plan import make_plan

ROWS = """\
# my lab's devices
Ascend-X: {bf16_TFLOPs: 320, memory_GB: 64, TDP_W: 310, source: "data sheet of 2025"}
H100-SXM: {bf16_TFLOPs: 900, fp32_TFLOPs: null, memory_GB: 96}
"""


@pytest.fixture
def table(tmp_path: Path) -> str:
    """A file with two rows, one of them named as one of llmrun's."""
    path = tmp_path / "gpus.yaml"
    path.write_text(ROWS, encoding="utf-8")
    return str(path)


def test_rows_are_added_and_stand_before_ours(table: str) -> None:
    """A new row is found whatever its case, a row of the same name takes the place of llmrun's, others remain."""
    mine = accelerator_named("ascend-x", table=table)

    assert (mine.peak_FLOPs("bf16"), mine.peak_FLOPs("fp32"), mine.memory_bytes) == (320e12, None, 64 * 10**9)
    assert (mine.TDP_W, mine.bandwidth_GBps, mine.source) == (310, None, "data sheet of 2025")
    assert accelerator_named("H100-SXM", table=table).peak_FLOPs("bf16") == 900e12
    assert accelerator_named("H100-SXM", table=table).source == table
    assert accelerator_named("H200-SXM", table=table) == hardware_table()["H200-SXM"]
    assert accelerator_named("H100-SXM").peak_FLOPs("bf16") == 989.5e12


def test_a_plan_for_a_device_of_ones_own(table: str, tmp_path: Path) -> None:
    """`hardware.table` names the file; time and energy follow from its row."""
    config = tmp_path / "x.yaml"
    config.write_text(
        f"T_tokens: 1B\nmodel: {{vocab_size: 4096}}\nhardware: {{table: {table}, accelerator: Ascend-X}}",
        encoding="utf-8",
    )
    plan = make_plan(resolve(load_config(config), None, MachineFacts(gpus=0)))

    assert plan.costs.time_hours == pytest.approx(plan.flops.exact / (320e12 * 0.4) / 3600)
    assert plan.costs.watts == 310


def test_a_missing_row_names_the_users_rows_too(table: str) -> None:
    """The list of rows and the nearest one come from both tables."""
    with pytest.raises(InputError) as refusal:
        accelerator_named("Ascend-Y", Place("x.yaml", 3, "hardware.accelerator"), table)

    assert "Ascend-X" in refusal.value.hints[0]
    assert "Ascend-X" in refusal.value.hints[1]


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("[1]", None, "my-GPU: "),
        ("", None, "my-GPU: "),
        ("X: 3", "X", "X: {"),
        ("X: {TDP_W: 3}", "X", "X: {"),
        ("X: {memory_GB: 0}", "X.memory_GB", None),
        ("X: {memory_GB: true}", "X.memory_GB", None),
        ("X: {memory_GB: null}", "X", "X: {"),
        ("X: {memory_GB: 8, TDP_W: 0}", "X.TDP_W", None),
        ("X: {memory_GB: 8, tdp: 3}", "X.tdp", "`TDP_W`"),
        ("X: {memory_GB: 8, frobnicate: 3}", "X.frobnicate", "bf16_TFLOPs, "),
        ("X: {memory_GB: 8, source: 3}", "X.source", None),
    ],
)
def test_a_wrong_row_is_refused_with_its_line(
    tmp_path: Path, text: str, key: str | None, hint: str | None
) -> None:
    """Each mistake is named once, with file, line and key; nothing is guessed."""
    path = tmp_path / "gpus.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refusal:
        read_rows(str(path))

    (problem,) = refusal.value.problems
    assert problem.key == key
    assert str(path) in str(problem.where)
    assert (hint or "") in (problem.hint or "")
    assert (problem.hint is None) == (hint is None)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    """A missing file is the user's mistake, with its name."""
    with pytest.raises(InputError, match=r"gpus\.yaml"):
        read_rows(str(tmp_path / "gpus.yaml"))
