"""Statistical mode on real runs: five seeds against five others, against a higher learning rate, against spoiled data."""

import json
import random

import pytest

from llmrun.cli.app import run
from llmrun.data.prepare import prepare
from llmrun.storage.metrics.jsonl import rows
from warm.driver import TEXT, Driver, make_dataset
from warm.pool import PoolBackend

STEPS = 120
SMALL = (
    "model.n_layers=1", "model.d_model=32", "model.n_heads=2", "model.d_ff=64", "model.dropout=0",
    "batch.V=1", "batch.mu_tok=512", f"T_tokens={STEPS * 512}", "schedule.warmup_tokens=10Ki",
    "optimizer.lr=1e-3", "precision=fp32", f"eval.every_steps={STEPS}", "eval.windows=64",
    "checkpoint.every_steps=null",
)  # fmt: skip
MARGIN = "5%"

pytestmark = pytest.mark.slow


def spoiled_dataset(directory):
    """The dataset of the tests with noise in the first quarter of its training text; the validation split is the same."""
    text, generator = TEXT.read_text(), random.Random(0)
    n = len(text) // 4
    noise = "".join(chr(generator.randrange(32, 127)) for _ in range(n))
    (directory / "spoiled").mkdir()
    (directory / "spoiled" / "licence.txt").write_text(noise + text[n:])
    prepare([directory / "spoiled"], directory / "spoiled-data", "byte", val_fraction=0.1)
    return directory / "spoiled-data"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, server):
    """Four groups of five runs below one directory: base, same, faster, spoiled."""
    place = tmp_path_factory.mktemp("groups")
    driver = Driver(place, make_dataset(place))
    changes = {
        "base": (),
        "same": (),
        "faster": ("optimizer.lr=1.5e-3",),
        "spoiled": (f"data.path={spoiled_dataset(place)}",),
    }
    backend = PoolBackend(server)
    for number, (name, change) in enumerate(changes.items()):
        for seed in range(10 * number + 1, 10 * number + 6):
            driver.train(backend, f"{name}-{seed}", *SMALL, f"seed={seed}", *change)
    return driver


@pytest.fixture
def verdict(trained, monkeypatch, capsys):
    """The JSON of a comparison with the baseline, and its exit code."""
    monkeypatch.chdir(trained.directory)

    def call(candidate):
        groups = ["--baseline", "base-*", "--candidate", f"{candidate}-*", "--margin", MARGIN]
        code = run(["equivalence", *groups, "--json"], as_json=True)
        return code, json.loads(capsys.readouterr().out)

    return call


def test_other_seeds_are_equivalent(verdict):
    """Five seeds and five others: shown equivalent, nothing differs but seeds, no run would have been warned of."""
    code, found = verdict("same")

    assert (code, found["verdict"]) == (0, "equivalent")
    assert found["differing"] == []
    assert [entry["left_band_at"] for entry in found["curves"]["candidates"]] == [None] * 5


@pytest.mark.parametrize(
    ("candidate", "differing", "sign"),
    [("faster", ["optimizer.lr 0.001 → 0.0015"], -1), ("spoiled", ["data.train"], 1)],
)
def test_what_was_changed_is_found(verdict, candidate, differing, sign):
    """A learning rate 1.5 times as high, and noise in a quarter of the text: different in loss and val_ppl."""
    code, found = verdict(candidate)

    assert (code, found["verdict"]) == (1, "different")
    assert found["differing"] == differing
    for measure in found["measures"]:
        assert sign * measure["difference"] > found["margin"]["nats"]
        assert measure["p_difference_holm"] < 0.001
    assert all(entry["left_band_at"] for entry in found["curves"]["candidates"])


def test_the_monitor_sees_it_while_it_trains(trained, server):
    """With the same runs as `monitor.baseline` a run on spoiled data is warned of, one with another seed is not."""
    backend = PoolBackend(server)
    watched = (*SMALL, "monitor.baseline=[base-*,same-*]")
    good = trained.train(backend, "watched-good", *watched, "seed=91")
    spoiled = trained.directory / "spoiled-data"
    bad = trained.train(backend, "watched-bad", *watched, "seed=92", f"data.path={spoiled}")

    assert good.end.warnings == ()
    (warning,) = bad.end.warnings
    assert "has left the baseline's band, above its mean" in warning
    assert (good.end.why, bad.end.why) == ("finished", "finished")
    (warned,) = [row for row in rows(trained.run("watched-bad").metrics_file) if "warnings" in row]
    assert warned["warnings"] == [warning]
    assert warned["baseline_z"] > 3
    assert bad.record.segments[-1].warnings == [warning]
