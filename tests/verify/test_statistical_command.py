"""`llmrun equivalence` on runs made by hand: exit codes, words, JSON, picture, and what is refused."""

import json
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from llmrun.cli.app import run
from llmrun.provenance.fingerprint import Fingerprint
from llmrun.run.directory import RunDirectory
from llmrun.run.record import RunRecord
from llmrun.storage.ledger.record import LedgerRecord
from llmrun.storage.ledger.writer import LedgerWriter
from llmrun.storage.metrics.throughput import MovingAverage

STEPS = 60
DATA = {"train": "aa" * 32, "val": "bb" * 32, "tokenizer": "cc" * 32, "quarantine": []}


def make(
    name,
    seed,
    shift=0.0,
    sd=0.01,
    steps=STEPS,
    lr=1e-3,
    evaluated=True,
    GB_tok=1024,
    data=DATA,
    status="finished",
):
    """A run whose loss falls from 6 to about 3, moved as a whole by its seed, and by `shift` towards the end."""
    directory = RunDirectory(Path("runs") / name)
    directory.path.mkdir(parents=True)
    config = {"seed": seed, "optimizer": {"lr": lr}}
    fingerprint = Fingerprint(
        {"config": config, "data": data, "code": {}, "environment": {"torch": "2.13.0"}}
    )
    values = {
        "identity": name,
        "status": status,
        "steps": STEPS,
        "config": {"seed": seed, "batch": {"GB_tok": GB_tok}},
        "fingerprint": fingerprint.as_json(),
        "segments": [],
    }
    RunRecord(**{field.name: values.get(field.name) for field in fields(RunRecord)}).write(
        directory.record_file
    )
    away = sd * np.random.default_rng(seed).standard_normal()
    rows = []
    for step in range(1, steps + 1):
        loss = 3.0 + 3.0 / step + away + shift * step / STEPS
        row = {"step": step, "loss": loss, "loss_smooth": loss}
        if evaluated and step % 20 == 0:
            row["val_loss"] = loss + 0.1
        rows.append(json.dumps(row) + "\n")
    directory.metrics_file.write_text("".join(rows))
    return directory


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Makes groups of runs below `runs/` of an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def group(name, seeds, **options):
        return [make(f"{name}-{seed:02d}", seed, **options) for seed in seeds]

    group("base", range(1, 6))
    return group


@pytest.fixture
def llmrun(monkeypatch, capsys):
    """Run `llmrun equivalence`; returns exit code, stdout and stderr."""
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments):
        arguments = ["equivalence", *arguments]
        code = run(arguments, as_json="--json" in arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


BOTH = ("--baseline", "base-*", "--candidate", "new-*")


def test_equivalent_groups(groups, llmrun):
    """Exit 0, the verdict is the last line, both measures are shown."""
    groups("new", range(11, 16))
    code, out, err = llmrun(*BOTH, "--margin", "5%")

    assert (code, err) == (0, "")
    labels = [line[:13].strip() for line in out.splitlines()[:-1]]
    assert out.splitlines()[-1].startswith("equivalent: ")
    assert [label for label in labels if label] == [
        "baseline",
        "candidate",
        "differ in",
        "compared",
        "loss_smooth",
        "val_ppl",
        "curves",
    ]


def test_different_groups(groups, llmrun):
    """Exit 1, how large the difference is, and when it began; what the groups differ in is named."""
    groups("new", range(11, 16), shift=0.3, lr=2e-3)
    code, out, _ = llmrun(*BOTH, "--margin", "5%")

    assert code == 1
    assert out.splitlines()[-1].startswith("different: loss_smooth by +0.3")
    assert "and val_ppl by +0.3" in out.splitlines()[-1]
    assert "differ in    optimizer.lr 0.001 → 0.002" in out
    assert "would have warned of 5 of 5" in out
    assert "a difference is shown at" in out


def test_too_few_seeds(groups, llmrun):
    """Exit 1 with other words: nothing is shown either way, and how many seeds it would take."""
    groups("new", range(11, 14))
    code, out, _ = llmrun(*BOTH)

    assert code == 1
    assert "too few seeds" in out.splitlines()[-1]
    assert "note         3 runs in the candidate" in out


def test_json(groups, llmrun):
    """The keys are stable, the numbers agree with each other, and nothing else is on stdout."""
    groups("new", range(11, 16), shift=0.3)
    code, out, _ = llmrun(*BOTH, "--margin", "0.05", "--json")
    found = json.loads(out)

    assert code == 1
    assert set(found) == {
        "mode", "verdict", "equivalent", "margin", "alpha", "power", "step", "complete", "baseline", "candidate",
        "differing", "measures", "curves", "notes", "plot",
    }  # fmt: skip
    assert (found["mode"], found["verdict"], found["equivalent"]) == ("statistical", "different", False)
    assert found["margin"] == {"text": "0.05", "nats": 0.05}
    assert [entry["seed"] for entry in found["baseline"]["runs"]] == [1, 2, 3, 4, 5]
    for measure in found["measures"]:
        assert measure["difference"] == pytest.approx(measure["candidate_mean"] - measure["baseline_mean"])
        assert measure["interval"][0] < measure["difference"] < measure["interval"][1]
        assert measure["p_difference"] <= measure["p_difference_holm"] <= 2 * measure["p_difference"]
        assert measure["hedges_g_interval"][0] < measure["hedges_g"] < measure["hedges_g_interval"][1]
    assert [measure["name"] for measure in found["measures"]] == ["loss_smooth", "val_ppl"]
    assert len(found["curves"]["looks"]) == 20
    assert all(entry["left_band_at"] for entry in found["curves"]["candidates"])


def test_shares_outside_the_band(groups, llmrun):
    """Counted anew with the printed quantile t(0.975, 4) = 2.776."""
    base = np.stack([losses_of(directory) for directory in map(RunDirectory, sorted(Path("runs").iterdir()))])
    new = groups("new", range(11, 16), shift=0.06)
    half = 2.7764451 * base.std(axis=0, ddof=1) * np.sqrt(1.2)
    expected = [float((np.abs(losses_of(directory) - base.mean(axis=0)) > half).mean()) for directory in new]
    found = json.loads(llmrun(*BOTH, "--json")[1])["curves"]

    assert [entry["outside"] for entry in found["candidates"]] == expected
    assert 0 < min(expected) < max(expected) < 1
    assert found["band"] == {"confidence": 0.95, "runs": 5, "steps": 60, "expected_outside": 0.05}


def losses_of(directory):
    """The smoothed losses of a run."""
    return np.array([json.loads(line)["loss_smooth"] for line in directory.metrics_file.open()])


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_picture(groups, llmrun, suffix, begins):
    """A whole file of the kind that its name says."""
    groups("new", range(11, 16))
    code, _, _ = llmrun(*BOTH, "--margin", "5%", "--plot", f"groups{suffix}")

    assert code == 0
    assert Path(f"groups{suffix}").read_bytes().startswith(begins)
    assert len(Path(f"groups{suffix}").read_bytes()) > 5000


def test_seeds_for_a_margin(groups, llmrun):
    """Without a candidate it says what a comparison takes; fewer for a wider margin."""
    code, out, _ = llmrun("--baseline", "base-*", "--margin", "3%", "--json")
    found = json.loads(out)
    needed = [entry["needed"]["loss_smooth"] for entry in found["seeds"]]

    assert code == 0
    assert [entry["margin"]["text"] for entry in found["seeds"]] == ["0.5%", "1%", "2%", "3%", "5%"]
    assert needed == sorted(needed, reverse=True)
    assert needed[-1] < needed[0]
    assert "runs needed" in llmrun("--baseline", "base-*")[1]


def test_runs_of_different_length(groups, llmrun):
    """Compared where all are; that is said."""
    groups("new", range(11, 15))
    groups("new", [15], steps=45, status="failed")
    _, out, _ = llmrun(*BOTH, "--margin", "5%", "--json")
    found = json.loads(out)

    assert (found["step"], found["complete"]) == (45, False)
    assert [measure["step"] for measure in found["measures"]] == [45, 40]
    assert "compared at step 45 of 60: new-15 ended there" in found["notes"]
    assert "not finished: new-15" in found["notes"]


def test_without_evaluations_the_loss_decides(groups, llmrun):
    """One run without val_ppl, or another validation split, leaves one measure, and that is said."""
    groups("new", range(11, 15))
    groups("new", [15], evaluated=False)
    groups("other", range(21, 26), data=DATA | {"val": "dd" * 32})
    for candidate in ("new-*", "other-*"):
        _, out, _ = llmrun("--baseline", "base-*", "--candidate", candidate, "--json")
        found = json.loads(out)

        assert [measure["name"] for measure in found["measures"]] == ["loss_smooth"]
        assert any(note.startswith("val_ppl is not compared") for note in found["notes"])


def test_mixed_groups_are_told(groups, llmrun):
    """Runs of one group that differ in more than the seed, and groups of a single seed."""
    groups("new", range(11, 14))
    groups("new", [14], lr=5e-3)
    notes = json.loads(llmrun(*BOTH, "--json")[1])["notes"]

    assert "the runs of the candidate differ from each other in optimizer.lr 0.001 → 0.005" in notes


def test_hardware_groups_of_one_seed_are_told(groups, llmrun):
    """All runs of a group with one seed: the scatter is that of the machine alone."""
    for directory in groups("new", range(11, 16)):
        record = json.loads(directory.record_file.read_text())
        record["config"]["seed"] = 7
        directory.record_file.write_text(json.dumps(record))
    notes = json.loads(llmrun(*BOTH, "--json")[1])["notes"]

    assert any(note.startswith("all runs of the candidate have seed 7") for note in notes)


REFUSED = [
    pytest.param((), "--baseline", id="no group"),
    pytest.param(("--baseline", "base-*", "--candidate", "none-*"), "none-*", id="no such group"),
    pytest.param(("--baseline", "base-09"), "base-09", id="no such run"),
    pytest.param(("--baseline", "base-01"), "--baseline", id="one run"),
    pytest.param(("--baseline", "base-*", "--margin", "0"), "--margin", id="no margin"),
    pytest.param(("--baseline", "base-*", "--alpha", "0.7"), "--alpha", id="alpha"),
    pytest.param(("--baseline", "base-*", "--power", "1"), "--power", id="power"),
    pytest.param(("--baseline", "base-*", "--plot", "x.png"), "--plot", id="half a plot"),
    pytest.param((*BOTH, "--plot", "x.gif"), "--plot", id="no plot"),
    pytest.param((*BOTH, "--plot", "nowhere/x.png"), "nowhere", id="nowhere"),
    pytest.param(("--baseline", "base-*", "--candidate", "base-0[1-3]"), "equal ones", id="twice"),
    pytest.param((*BOTH, "runs/base-01"), "runs/base-01", id="positional"),
    pytest.param((*BOTH, "--steps", "3"), "--steps", id="replay"),
]


@pytest.mark.parametrize(("arguments", "named"), REFUSED)
def test_wrong_input(groups, llmrun, arguments, named):
    """Exit 2, one error, nothing on stdout."""
    groups("new", range(11, 16))
    code, out, err = llmrun(*arguments)

    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert named in err.splitlines()[0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"GB_tok": 2048}, "GB_tok"),
        ({"data": DATA | {"tokenizer": "ee" * 32}}, "tokenizer"),
        ({"steps": 0}, "metrics"),
    ],
)
def test_what_cannot_be_compared(groups, llmrun, options, named):
    """Another batch, another tokenizer, no metrics: exit 2."""
    groups("new", range(11, 16), **options)
    code, _, err = llmrun(*BOTH)

    assert code == 2
    assert named in err.splitlines()[0]


@pytest.mark.parametrize(
    ("package", "extra", "options"), [("scipy", "stats", ()), ("matplotlib", "plot", ("--plot", "x.png"))]
)
def test_a_missing_extra_is_named(groups, llmrun, monkeypatch, package, extra, options):
    """Exit 3 with the command that installs it; nothing is written."""
    groups("new", range(11, 16))
    monkeypatch.setitem(sys.modules, package, None)
    code, out, err = llmrun(*BOTH, *options)

    assert (code, out) == (3, "")
    assert f"`pip install 'llmrun[{extra}]'`" in err
    assert not Path("x.png").exists()


def test_losses_that_the_ledger_contradicts_are_damage(tmp_path, monkeypatch, capsys):
    """metrics.jsonl alone would decide here: its smoothed losses must be those of the ledger."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("base-1", "base-2", "new-1", "new-2")):
        losses, smooth = [5.0 - number / 10 - step / 100 for step in range(1, 9)], MovingAverage()
        run_ = make(name, seed=number, steps=8)
        rows = [
            {"step": step, "loss": loss, "loss_smooth": smooth.add(loss)}
            for step, loss in enumerate(losses, start=1)
        ]
        ledger = LedgerWriter.create(run_.ledger_file, "test", 8, {"step", "loss"})
        ledger.append(LedgerRecord(0))
        for row in rows:
            ledger.append(LedgerRecord(row["step"], loss=row["loss"]))
        ledger.close()
        run_.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ["equivalence", "--baseline", "base-*", "--candidate", "new-*", "--json"]
    run(line, as_json=True)
    sound = json.loads(capsys.readouterr().out)
    text = run_.metrics_file.read_text().splitlines()
    text[4] = json.dumps({**json.loads(text[4]), "loss_smooth": 4.0})
    run_.metrics_file.write_text("\n".join(text) + "\n")
    code = run(line, as_json=True)
    error = json.loads(capsys.readouterr().err)

    assert sound["step"] == 8
    assert (code, error["exit_code"], error["where"]["file"]) == (1, 1, "runs/new-2/metrics.jsonl")
    assert "step 5" in error["message"]
