"""`llmrun verify A B` on the screen: exit code and text, as a user sees them."""

import io
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from llmrun.cli.app import run
from llmrun.cli.verdict import show
from llmrun.storage.ledger.record import RECORD_BYTES
from llmrun.verify.render import labelled, prose, verdict_line

FINGERPRINT = "f7a3f1afb8662b5461496edfc074675d0871e63115079a83dc7d0de4a1259185"
CHAIN = "37d12fded882090e7d646c8c42e99215976f1417d91fc82df4f51982b271249f"


@pytest.fixture
def llmrun(monkeypatch, capsys):
    """Run one command line; returns exit code, stdout and stderr."""
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments):
        code = run(list(arguments), as_json="--json" in arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_equal_runs_get_a_certificate(runs, llmrun):
    """Fingerprint, steps, checkpoints, chain; the verdict is the last line."""
    runs.make("a")
    runs.make("b")

    assert llmrun("verify", "a", "runs/b") == (
        0,
        f"""\
A            runs/a
B            runs/b
fingerprint  {FINGERPRINT}, the same in both
compared     24 steps, up to step 24, all of both
checkpoints  steps 10, 20: 18 tensors and all random states equal, every byte read
chain        {CHAIN}
equal: the same bits at every step up to 24
""",
        "",
    )


def test_names_are_looked_up_where_the_user_says(runs, llmrun, monkeypatch, tmp_path):
    """`--runs-dir` as everywhere; a directory that is no run does not hide a run of its name."""
    runs.make("a")
    runs.make("b")
    here = tmp_path / "elsewhere"
    (here / "a").mkdir(parents=True)
    monkeypatch.chdir(here)
    code, out, _ = llmrun("verify", "a", "b", "--runs-dir", "../runs")

    assert (code, out.splitlines()[0]) == (0, "A            ../runs/a")


def test_a_longer_run_of_another_fingerprint_may_be_equal(runs, llmrun):
    """Both are said; `--strict` takes neither."""
    runs.make("a")
    runs.make("b", last_step=31, preimages={"config": {"seed": 42, "optimizer": {"lr": 0.002}}})
    common = f"""\
A            runs/a
B            runs/b
fingerprint  differs in config
             optimizer.lr: 0.001 -> 0.002
compared     24 steps, up to step 24; A ends at step 24, B at step 31
checkpoints  steps 10, 20: 18 tensors and all random states equal, every byte read
chain        {CHAIN}
"""

    assert llmrun("verify", "a", "b") == (0, common + "equal: the same bits at every step up to 24\n", "")
    assert llmrun("verify", "a", "b", "--strict") == (
        1,
        common
        + "different: the bits are equal up to step 24, but not both end there: A at step 24, B at step 31\n",
        "",
    )


def test_strict_demands_the_same_fingerprint(runs, llmrun):
    """Where only that differs, it is the quantity `config`."""
    runs.make("a")
    runs.make("b", preimages={"environment": {"torch": "2.12.0"}})
    code, out, _ = llmrun("verify", "a", "b", "--strict")

    assert code == 1
    assert out.splitlines()[-1] == (
        "different: the bits are equal, but the fingerprints differ in environment (torch: 2.13.0 -> 2.12.0)"
    )
    assert json.loads(llmrun("verify", "a", "b", "--strict", "--json")[1])["quantity"] == "config"


def test_different_runs_are_told_apart(runs, llmrun):
    """Step, quantity, what else, how far and how it grows, which tensors, and what it means."""

    def change(record):
        if record.step < 12:
            return record
        loss = record.loss * (1 + 1e-13 * 10 ** (record.step - 12))
        return replace(record, loss=loss, gradients_digest=record.gradients_digest ^ 1)

    runs.make("a")
    runs.make(
        "b", change=change, alter=runs.from_step(12, lambda state: runs.flip(state.weights["norm.weight"]))
    )

    assert llmrun("verify", "a", "b") == (
        1,
        f"""\
A            runs/a
B            runs/b
fingerprint  {FINGERPRINT}, the same in both
compared     24 steps, up to step 24, all of both
checkpoints  step 10: 9 tensors and all random states equal, every byte read
also differ  gradients, weights at step 12
loss              step                       A                       B   relative          ulps
                    12     0.46153846153846156     0.46153846153850769   9.99e-14           831
                    13     0.42857142857142855     0.42857142857185715   1.00e-12         7,721
                    22      0.2608695652173913     0.26113043478260867   9.99e-04       4.7e+12
                    24     0.23999999999999999     0.26400000000000001   9.09e-02       6.1e+14
tensors      1 of weights differs after step 20:
             tensor                    elements  max |a - b|   relative          ulps
             norm.weight                 1 of 4     1.19e-07   9.78e-08             1
diagnosis    same data and weights, the loss differs at step 12: dropout drew other numbers, \
the forward pass is not deterministic, or the weights changed between steps 11 and 12; the fingerprints are equal, \
so config, data, code and environment are not the cause
different: from step 12 on, first in loss
""",
        "",
    )


def test_other_initial_weights_are_told(runs, llmrun):
    """With the cause that the fingerprints show."""
    runs.make("a")
    runs.make(
        "b",
        preimages={"config": {"seed": 43, "optimizer": {"lr": 0.001}}},
        alter=lambda state: [runs.flip(values) for values in state.weights.values()],
    )

    assert llmrun("verify", "a", "b")[:2] == (
        1,
        """\
A            runs/a
B            runs/b
fingerprint  differs in config
             seed: 42 -> 43
compared     24 steps, up to step 24, all of both
tensors      3 of weights differ after step 0:
             embed.weight
             layers.0.up.weight
             norm.weight
distances    after step 10                    elements  max |a - b|   relative          ulps
             embed.weight                      1 of 32     1.49e-08   1.18e-07             1
             layers.0.up.weight                1 of 24     2.98e-08   6.90e-08             1
             norm.weight                        1 of 4     5.96e-08   8.64e-08             1
diagnosis    weights differ before the first step: initialisation; \
the fingerprints differ in config (seed: 42 -> 43)
different: before the first step, first in weights
""",
    )


def test_a_damaged_ledger_is_told(runs, llmrun):
    """The first bad record, and up to where the rest was equal."""
    runs.make("a", checkpoints=())
    path = runs.make("b", checkpoints=()) / "ledger.bin"
    raw = bytearray(path.read_bytes())
    raw[4096 + 17 * RECORD_BYTES + 17] ^= 1
    path.write_bytes(raw)
    code, out, err = llmrun("verify", "a", "b")

    assert (code, err) == (1, "")
    assert out.splitlines()[3:] == [
        "compared     16 steps, up to step 16; A ends at step 24, B at step 24",
        "chain        659c6aa0e5598becd5ca8e29b405e6b9d566c3332231eeb28354d8b501220628",
        "damaged: record 17 of the ledger of B does not hold: it was damaged or edited",
    ]


def test_long_lists_are_cut(runs, llmrun):
    """Many checkpoints, many changed fields: the screen stays readable, the JSON has all."""
    many = {f"field_{n:02d}": n for n in range(14)}
    runs.make("a", checkpoints=range(2, 24, 2))
    runs.make("b", checkpoints=range(2, 24, 2), preimages={"config": many})
    lines = llmrun("verify", "a", "b")[1].splitlines()

    assert lines[2:14] == [
        "fingerprint  differs in config",
        *(f"             field_{n:02d}: (absent) -> {n}" for n in range(10)),
        "             and 6 more",
    ]
    assert lines[15].startswith("checkpoints  steps 2, 4, 6, 8, 10, 12, …, 22: 99 tensors")
    assert len(json.loads(llmrun("verify", "a", "b", "--json")[1])["fingerprint_changes"]) == 16


def test_the_json_has_its_keys_in_every_case(runs, llmrun):
    """Stable keys, whether equal or not."""
    runs.make("a")
    runs.make("b", checkpoints=())
    runs.make("c", last_step=20, change=lambda r: replace(r, loss=9.0) if r.step == 5 else r)
    keys = (
        "a b equal first_step quantity quantities tensors tensors_step tensors_quantity module elements diagnosis "
        "steps_compared quantities_compared complete last_steps chain checkpoints_compared tensors_compared distances "
        "tensor_distances differing_steps equal_again_from fingerprints_equal fingerprints "
        "fingerprint_parts fingerprint_changes damage notes"
    )
    for other, code in (
        ("b", 0),
        ("c", 1),
        ("runs/a/checkpoints/step-00000010", 0),
        ("runs/b/ledger.bin", 0),
    ):
        found, out, err = llmrun("verify", "a", other, "--json")
        document = json.loads(out)
        assert (found, err) == (code, "")
        assert list(document) == keys.split()
        assert document["equal"] is (code == 0)
        assert (document["first_step"], document["quantity"]) == ((None, None) if code == 0 else (5, "loss"))


def test_on_a_terminal_the_words_are_wrapped_and_coloured(monkeypatch, tmp_path):
    """Tables stay in one piece; the verdict is red or green."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR")
    show(
        [
            *labelled("loss", ["1 " * 40]),
            *prose("diagnosis", ["word " * 20]),
            verdict_line("different: from step 3 on, first in loss", "bad"),
        ]
    )

    assert terminal.getvalue().splitlines() == [
        f"\x1b[1mloss         \x1b[0m{'1 ' * 40}".rstrip(),
        f"\x1b[1mdiagnosis    \x1b[0m{'word ' * 9}".rstrip(),
        *[f"             {'word ' * 9}".rstrip()],
        f"             {'word ' * 2}".rstrip(),
        "\x1b[1;31mdifferent: from step 3 on, first in loss\x1b[0m",
    ]


@pytest.mark.parametrize(
    ("arguments", "err"),
    [
        (
            ["verify", "a", "aa"],
            "error: there is no run aa\n\nhint: did you mean a\n",
        ),
        (
            ["verify", "a", "."],
            (
                "error: . must be a run or a checkpoint\n\n"
                "hint: give a run's directory or name, a checkpoint's directory, or a ledger.bin\n"
            ),
        ),
        (
            ["verify", "a", "runs/a/run.json"],
            (
                "error: runs/a/run.json must be a run, a checkpoint or a ledger\n\n"
                "hint: give a run's directory or name, a checkpoint's directory, or a ledger.bin\n"
            ),
        ),
    ],
)
def test_bad_input_is_refused(runs, llmrun, arguments, err):
    """Exit 2, with what to give instead."""
    runs.make("a")

    assert llmrun(*arguments) == (2, "", err)


def test_verify_needs_no_torch():
    """Neither at import nor when it runs."""
    code = "import sys, llmrun.verify.compare_runs, llmrun.verify.render; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
