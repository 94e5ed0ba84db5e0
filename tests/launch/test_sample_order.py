"""`llmrun data order`: the windows that steps see, as the order file of the run has them."""

import json
import shutil

import numpy as np
import pytest

from llmrun.cli.app import run
from llmrun.data.synthetic import write_random_dataset


def samples(capsys, steps, code=0):
    """What `llmrun data order demo --steps …` prints as JSON."""
    assert run(["data", "order", "demo", "--steps", steps, "--json"], as_json=True) == code
    captured = capsys.readouterr()
    return json.loads(captured.out) if code == 0 else captured.err


def test_as_the_order_file(project, capsys):
    """All steps of a run, also those to come, are the order file cut into steps; every window once in an epoch."""
    project.train(until=7)
    config = project.record.config
    per_step = config["batch"]["GB_tok"] // config["batch"]["L_ctx"]
    entries = np.fromfile(project.run.order / "order.bin", "<u8").tolist()
    found = samples(capsys, f"1:{project.record.steps}")

    assert [sample["window"] for sample in found] == entries
    assert [sample["position"] for sample in found] == list(range(len(entries)))
    assert [sample["step"] for sample in found] == [1 + p // per_step for p in range(len(entries))]
    assert samples(capsys, "3") == found[2 * per_step : 3 * per_step]
    assert samples(capsys, "3:5") == found[2 * per_step : 5 * per_step]
    L_ctx = config["batch"]["L_ctx"]
    assert all(s["tokens"] == [s["window"] * L_ctx, s["window"] * L_ctx + L_ctx + 1] for s in found)


def test_each_segment_has_its_own(project, capsys):
    """After a resume with another seed, earlier steps keep their windows, later ones have those of the new seed."""
    project.train(until=10)
    before = samples(capsys, "1:20")
    project.resume(overrides=["seed=7"], allow=["config"])
    after = samples(capsys, "1:20")
    half = len(before) // 2

    assert after[:half] == before[:half]
    assert after[half:] != before[half:]
    entries = np.fromfile(project.run.order / "order.bin", "<u8").tolist()
    assert [sample["window"] for sample in after[half:]] == entries[half:]


@pytest.mark.parametrize("steps", ["0", "5:3", "1:21", "x", "1:"])
def test_wrong_steps(project, capsys, steps):
    """Steps that the run does not have are refused."""
    project.train(until=5)

    assert "step" in samples(capsys, steps, code=2)


def test_a_lost_dataset(project, dataset_of_session, capsys):
    """A dataset that is gone, or is another one now, is refused with the places."""
    place = project.path / "data"
    place.unlink()
    shutil.copytree(dataset_of_session, place)
    project.train(until=5)
    assert samples(capsys, "1")
    shutil.rmtree(place)

    assert str(place) in samples(capsys, "1", code=2)
    write_random_dataset(place, 257, 200_000)
    assert str(place) in samples(capsys, "1", code=2)
