"""What the hardware table lacks is found before anything is written, and a forecast never ends a run."""

import pytest

from llmrun.errors import InputError

TABLE = "my-gpu: {memory_GB: 80, bf16_TFLOPs: 100, fp32_TFLOPs: 50}\n"
MISSPELT = ["hardware.accelerator=A100-80G-SMX"]


@pytest.fixture
def table(project):
    """A hardware table of the user, and one with a mistake."""
    (project.path / "own.yaml").write_text(TABLE)
    (project.path / "bad.yaml").write_text("my-gpu: {memory_GB: much}\n")
    return ["hardware.table=own.yaml", "hardware.accelerator=my-gpu"]


@pytest.mark.parametrize(
    ("overrides", "fact"),
    [
        (MISSPELT, "A100-80G-SMX"),
        (["hardware.table=bad.yaml"], "memory_GB"),
        (["hardware.table=gone.yaml", "hardware.accelerator=my-gpu"], "gone.yaml"),
    ],
)
def test_a_new_run_is_refused_without_a_trace(project, table, overrides, fact) -> None:
    """Exit 2, and there is no run and no draft."""
    with pytest.raises(InputError) as caught:
        project.prepare(overrides=overrides)

    assert fact in str(caught.value.as_json())
    assert not (project.path / "runs").exists()


def test_the_place_of_a_misspelt_accelerator_is_named(project) -> None:
    """The line of the config file that has it."""
    project.edit("hardware: {device: cpu}", "hardware: {device: cpu, accelerator: A100-80G-SMX}")
    with pytest.raises(InputError) as caught:
        project.prepare()

    line = (
        (project.path / "demo.yaml")
        .read_text()
        .splitlines()
        .index("hardware: {device: cpu, accelerator: A100-80G-SMX}")
    )
    assert f"demo.yaml:{line + 1}" in caught.value.where
    assert "hardware.accelerator" in caught.value.where


def test_a_resume_is_refused_before_files_are_cut_back(interrupted) -> None:
    """Ledger, metrics, checkpoints and run.json are byte for byte as they were."""
    before = interrupted.files()
    with pytest.raises(InputError):
        interrupted.prepare_resume(overrides=MISSPELT, start="5")

    assert interrupted.files() == before


def test_a_table_that_goes_away_later_costs_only_the_forecast(project, table) -> None:
    """The run trains to its end and says that there is no forecast."""
    prepared = project.prepare(overrides=table)
    (project.path / "own.yaml").unlink()
    ended = project.go(prepared)

    assert ended.end.why == "finished"
    assert any("own.yaml" in remark for remark in ended.end.remarks)


@pytest.mark.parametrize("text", ["[]", '{"format": "llmrun-forecast/1", "segments": [[]]}', "\xff"])
def test_a_damaged_forecast_of_another_run_ends_nothing(project, text) -> None:
    """Whatever lies in a forecast.json below runs_dir."""
    project.train(until=5)
    other = project.path / "runs" / "other"
    other.mkdir()
    (other / "run.json").write_text("{}")
    (other / "forecast.json").write_bytes(text.encode("latin-1"))

    assert project.resume().end.why == "finished"
