"""`llmrun plan` as its user sees it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmrun.cli.app import run
from llmrun.plan.forecast import QUANTITIES, Basis, Forecast
from llmrun.run.forecast import write_forecasts

DEMO = """\
name: demo
T_tokens: 4Mi
model: {n_layers: 6, d_model: 256, n_heads: 8, n_kv_heads: 4, d_ff: 688, vocab_size: 4096, dropout: 0.1}
batch: {GB_tok: 16Ki, μ_tok: 2Ki, L_ctx: 256, D: 2, V: 8}
schedule: {warmup_tokens: 256Ki}
hardware: {accelerator: A100-80G-SXM, assumed_mfu: 0.5}
"""

BIG = """\
name: big
T_tokens: 1B
model: {preset: gpt3-13b}
batch: {GB_tok: 128Ki, μ_tok: 2Ki, D: 64, V: 64}
hardware: {accelerator: A100-80G-SXM}
"""

SUMMARY = """\
plan of demo
  6 layers of width 256, 8 heads (4 key-value), swiglu 688, vocabulary 4,096

  GB_tok = D · A · μ_tok      16,384 = 2 · 4 · 2,048
  optimizer step, in tokens                    16,384 = GB_tok
  ├─ accumulation step 1 of A = 4               4,096 = D · μ_tok
  │  ├─ rank 0 (lanes 0-3): 8 sequences × 256   2,048 = μ_tok
  │  └─ rank 1 (lanes 4-7): 8 sequences × 256   2,048
  ├─ ⋮  2 more
  ├─ accumulation step 4                        4,096
  └─ V = 8 lanes, added in one tree of height 3: the same bits for every D

  steps           256             T_tokens / GB_tok, rounded down
  tokens seen     4.19 M          all of T_tokens
  warm-up         16 steps        of 262,144 tokens
  learning rate   0.0003          peak; first step 1.87e-05, last step 3e-05
  M               8               micro-batches per step, V = 8 lanes of 1

  N_params        4.35 M          4,353,280
  N_params_total  5.40 M          5,401,856: tables 1.05 M, head tied
  FLOPs           1.56e+14        every product, attention as full square (PaLM)
  6·N_params·T    1.10e+14        1.36e+14 with N_params_total

  memory per rank 446 MB          activations 156 MB, logits 101 MB, gradients
                                  64.8 MB, digests 34.1 MB
                                  fits the 80.0 GB of A100-80G-SXM; largest
                                  μ_tok at this V: 2,048

  checkpoint      64.8 MB         12 bytes per parameter, 32.4 MB from each rank
  on disk         259 MB          at most 4; each takes 0.0324 seconds at 2 GB/s
  save every      40.5 minutes    Daly: goodput 100 %, MTBF of the run 1,056.2
                                  days
                                  as configured, 4 hours: goodput 99.99 %

  time            0.499 seconds   on 2 A100-80G-SXM at an assumed MFU of 0.5;
                                  without evaluation and saving
  GPU-hours       0.000277        D · time; 0.499 seconds with 5.47e-09
                                  interruptions
  energy          0.000127 kWh    TDP 400 W · D · time · PUE 1.15
  CO2             6.84e-05 kg     at 0.5366 kg/kWh
  price of energy ¥ 0.00          at 0.6 ¥/kWh
  price of GPUs   —               hardware.yuan_per_GPU_hour is not set

  forecasts on this machine: none in runs has been compared with a run yet
"""


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with demo.yaml, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    (tmp_path / "demo.yaml").write_text(DEMO, encoding="utf-8")
    return tmp_path


def test_the_summary(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole screen of a small plan."""
    code = run(["plan", "demo.yaml"])
    screen = capsys.readouterr()

    assert (code, screen.err) == (0, "")
    assert screen.out == SUMMARY


def test_json_is_one_document_of_exact_integers(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stdout is JSON and nothing else; counts are integers; unknown figures are null and say why."""
    code = run(["plan", "demo.yaml", "--json", "--set", "T_tokens=1T"])
    screen = capsys.readouterr()
    plan = json.loads(screen.out)

    assert (code, screen.err) == (0, "")
    assert plan["steps"] == 10**12 // 16384
    assert (plan["lr_first"], plan["lr_peak"], plan["lr_last"]) == (3e-4 / 16, 3e-4, 3e-4 * 0.1)
    assert plan["FLOPs"] == 37_109_760 * plan["tokens_seen"]
    assert plan["yuan_GPU"] is None
    assert plan["unknown"] == {"yuan_GPU": "hardware.yuan_per_GPU_hour is not set"}
    assert plan["time_hours"] == pytest.approx(plan["FLOPs"] / (2 * 312e12 * 0.5) / 3600)


def test_explain_puts_the_numbers_into_every_formula(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both conventions for FLOPs, both forms of a checkpoint, and the sources."""
    code = run(["plan", "demo.yaml", "--explain"])
    shown = capsys.readouterr().out

    assert code == 0
    for line in (
        "  M = GB_tok / μ_tok = 16,384 / 2,048 = 8 micro-batches per step\n",
        "  A = M / D = 8 / 2 = 4\n",
        "  N_params_total = 4,353,280 + 1,048,576 + 0 = 5,401,856\n",
        "  output head = 2·d_model·vocab_size = 2·256·4,096 = 2,097,152\n",
        "  FLOPs per token = 3·(6·(1,449,984 + 262,144) + 2,097,152) = 37,109,760\n",
        "    causal                1.46e+14  0.936      exact - 6·n_layers·L_ctx·d_q (half of the square: ",
        "    6NT                   1.10e+14  0.704      6·N_params (Kaplan et al. 2020)\n",
        "12·N_params_total = 12·5,401,856 = 64,822,272 bytes = 64.8 MB; 32.4 MB from each of D = 2\n",
        "N·2 + N·8 = 54,018,560 bytes = 54.0 MB; 27.0 MB from each of D = 2\n",
        "arXiv 2205.05198",
        "price of GPUs — hardware.yuan_per_GPU_hour is not set\n",
    ):
        assert line in shown


def test_an_uneven_D_names_its_switch(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table offers D = 3 and says what it takes; the refusal's first hint is the same, and with it there is a plan."""
    switch = "--set batch.uneven=allow"
    assert run(["plan", "demo.yaml", "--explain"]) == 0
    shown = capsys.readouterr().out
    assert run(["plan", "demo.yaml", "--set", "batch.D=3"]) == 2
    refusal = capsys.readouterr().err

    assert f"  a D that does not divide M = 8 takes `{switch}`, the same bits\n" in shown
    assert f"hint: any of these works: `{switch}` (same bits); " in refusal
    assert run(["plan", "demo.yaml", "--set", "batch.D=3", *switch.split()]) == 0


def test_checkpoints_on_disk_are_no_more_than_are_saved(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A huge `keep_last` keeps one after each of 256 steps; without evaluation there is no best one."""
    counts = []
    for more in ("checkpoint.keep_last=100000000", "eval.every_steps=null", "eval.every_steps=8"):
        assert run(["plan", "demo.yaml", "--json", "--set", more]) == 0
        counts.append(json.loads(capsys.readouterr().out)["checkpoints_on_disk"])

    assert counts == [257, 3, 4]


def test_past_runs_make_the_interval_of_the_time(
    demo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole runs took 25 % more than assumed, with evaluation and saving; forecasts of another origin do not count."""
    monkeypatch.setattr("llmrun.machine.device_name", lambda _device: "A")
    taken: list[tuple[Basis, float]] = [("assumed_mfu", 12.5)] * 3 + [("same_work", 99.0)]
    for number, (basis, took) in enumerate(taken):
        path = demo / "runs" / f"run-{number}"
        path.mkdir(parents=True)
        (path / "run.json").write_text("{}", encoding="utf-8")
        planned = {**dict.fromkeys(QUANTITIES), "steps": 10, "step_s": 1.0, "time_s": 10.0}
        forecast = Forecast(
            run=path.name,
            segment=1,
            made=f"2026-01-0{number + 1}",
            machine={"device": "cuda", "model": "A"},
            work={"FLOPs": 1, "precision": "bf16", "D": 2, "threads_per_rank": None},
            basis=basis,
            planned=planned,
            measured=planned | {"time_s": took},
        )
        write_forecasts(path / "forecast.json", [forecast])
    assert run(["plan", "demo.yaml", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert run(["plan", "demo.yaml"]) == 0
    shown = " ".join(capsys.readouterr().out.split())

    assert plan["record"]["forecasts"]["time_s"]["count"] == 3
    assert plan["record"]["time_hours_interval"] == [pytest.approx(1.25 * plan["time_hours"])] * 2
    assert "step-time forecasts on this machine, last 3: median error 0.0%, worst 0.0%" in shown
    assert "run-time forecasts on this machine, last 3: median error 20.0%, worst 20.0%" in shown
    assert "judging by these errors the time will be 0.624 seconds to 0.624 seconds" in shown
    assert shown.count("without evaluation and saving") == 1


def test_an_unknown_accelerator(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The place in the config, the nearest row, and the list."""
    code = run(["plan", "demo.yaml", "--set", "hardware.accelerator=H10-SXM"])
    error = capsys.readouterr().err

    assert code == 2
    assert error.startswith(
        "error: unknown accelerator 'H10-SXM'\n"
        "  --> --set hardware.accelerator\n"
        "\n"
        "hint: did you mean H100-SXM?\n"
        "hint: the hardware table has V100-SXM2-16G, "
    )


def test_an_unknown_accelerator_in_the_file(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line of the file is named."""
    (demo / "demo.yaml").write_text(DEMO.replace("A100-80G-SXM", "A100"), encoding="utf-8")
    code = run(["plan", "demo.yaml"])

    assert code == 2
    assert "  --> demo.yaml:6  hardware.accelerator\n" in capsys.readouterr().err


def test_no_vocabulary_and_no_dataset(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without vocab_size a dataset is needed, and that is said."""
    (demo / "demo.yaml").write_text(DEMO.replace("vocab_size: 4096, ", ""), encoding="utf-8")
    code = run(["plan", "demo.yaml"])

    assert code == 2
    assert "vocab_size is unknown" in capsys.readouterr().err


def test_a_dataset_that_is_not_there_yet(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With vocab_size given the plan does not need it, and a note says that its tokens were not counted."""
    code = run(["plan", "demo.yaml", "--set", "data.path=data/demo"])
    screen = capsys.readouterr()

    assert code == 0
    assert screen.out == SUMMARY
    assert screen.err == "note: no dataset at data/demo yet; its tokens are not counted\n"


def test_a_dataset_gives_vocabulary_and_epochs(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real dataset: its tokenizer's vocabulary is planned with, and a short split is warned of."""
    (demo / "text").mkdir()
    for number in range(120):
        text = f"document {number}: " + "the same bits at every step, whatever else differs. " * 9
        (demo / "text" / f"{number:03}.txt").write_text(text, encoding="utf-8")
    assert run(["data", "prepare", "text", "--out", "tokens", "--tokenizer", "byte"]) == 0
    (demo / "demo.yaml").write_text(DEMO.replace("vocab_size: 4096, ", ""), encoding="utf-8")
    capsys.readouterr()
    code = run(["plan", "demo.yaml", "--set", "data.path=tokens", "--json"])
    screen = capsys.readouterr()
    plan = json.loads(screen.out)

    assert code == 0
    assert plan["N_params_total"] == plan["N_params"] + 257 * 256
    assert plan["epochs"] == plan["tokens_seen"] / plan["train_tokens"] > 1
    assert screen.err.startswith(f"warning: the training split has {plan['train_tokens']:,} tokens")


def test_lanes_that_ranks_share_unevenly(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """D divides M but not V: planned, with a warning on stderr."""
    code = run(["plan", "demo.yaml", "--set", "batch.GB_tok=48Ki", "--set", "batch.D=6"])
    screen = capsys.readouterr()

    assert code == 0
    assert "of 3 to 6, by rank" in screen.out
    assert screen.err == (
        "warning: D = 6 does not divide V = 8: ranks compute 3 to 6 micro-batches a step and wait 33% of the time\n"
        "  hint: use D = 4, which divides V, or start the run with a V that D = 6 divides (other bits)\n"
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["plan", "--help"], ["plan", "demo.yaml"], ["plan", "demo.yaml", "--json"]]
)
def test_heavy_libraries_stay_out(demo: Path, arguments: list[str]) -> None:
    """Neither help nor a plan imports torch, numpy, rich, git or tokenizers."""
    program = (
        "import sys; from llmrun.cli.app import run; code = run(sys.argv[1:]); "
        "heavy = {'torch', 'numpy', 'rich', 'git', 'tokenizers', 'tensorboard'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=demo,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_two_plans_side_by_side(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--compare` shows every figure of both and the second as a multiple of the first; as JSON both plans."""
    (demo / "wide.yaml").write_text(
        DEMO.replace("D: 2", "D: 4").replace("name: demo", "name: wide"), encoding="utf-8"
    )
    assert run(["plan", "demo.yaml", "--compare", "wide.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert run(["plan", "demo.yaml", "--compare", "wide.yaml", "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)["plans"]

    assert lines[0].split() == ["demo", "wide", "second", "/", "first"]
    assert next(line.split() for line in lines if line.startswith("D ")) == ["D", "2", "4", "2"]
    assert next(line.split() for line in lines if line.startswith("steps")) == ["steps", "256", "256", "="]
    assert next(line.split()[-1] for line in lines if line.startswith("time")) == "0.5"
    assert lines[-2].split() == ["fits", "fits"]
    assert lines[-1] == "the time does not include evaluation and saving"
    assert [plan["D"] for plan in plans] == [2, 4]


def test_chinese_by_option_and_by_locale(
    demo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--lang zh` and a Chinese locale give one screen; `--lang en` wins over the locale."""
    assert run(["plan", "demo.yaml", "--lang", "zh", "--explain"]) == 0
    asked = capsys.readouterr().out
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert run(["plan", "demo.yaml", "--explain"]) == 0
    by_locale = capsys.readouterr().out
    assert run(["plan", "demo.yaml", "--lang", "en"]) == 0

    assert asked == by_locale
    assert asked.startswith("demo 的计划\n")
    assert capsys.readouterr().out == SUMMARY


def test_a_language_that_is_none(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another language is refused with the two there are."""
    assert run(["plan", "demo.yaml", "--lang", "fr"]) == 2
    assert capsys.readouterr().err == (
        "error: --lang must be en or zh, got fr\n\nhint: write `--lang en` or `--lang zh`\n"
    )


def test_a_plan_that_does_not_fit(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0, the verdict and a way on the screen, and a warning whose setting makes it fit."""
    (demo / "big.yaml").write_text(BIG, encoding="utf-8")
    assert run(["plan", "big.yaml"]) == 0
    screen = capsys.readouterr()
    settings = re.findall(r"--set \S+", screen.err.split("hint: `")[1].split("`")[0])
    assert run(["plan", "big.yaml", "--json", *" ".join(settings).split()]) == 0

    assert "does not fit the 80.0 GB of A100-80G-SXM" in screen.out
    assert screen.err.startswith("warning: a rank needs ")
    assert json.loads(capsys.readouterr().out)["fits"] is True


def test_the_13B_example(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--explain` shows what llmrun writes and beside it the textbook's form, for 64 ranks."""
    (demo / "big.yaml").write_text(BIG, encoding="utf-8")
    assert run(["plan", "big.yaml", "--explain"]) == 0
    shown = capsys.readouterr().out

    assert "= 12·12,853,386,240 = 154,240,634,880 bytes = 154 GB; 2.41 GB from each of D = 64\n" in shown
    assert "N·2 + N·8 = 128,533,862,400 bytes = 129 GB; 2.01 GB from each of D = 64\n" in shown
    assert shown.startswith("plan of big (gpt3-13b)\n")


def test_a_changed_preset_says_so(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A title never claims a published shape that the config changed."""
    (demo / "big.yaml").write_text(BIG, encoding="utf-8")
    assert run(["plan", "big.yaml", "--set", "model.n_layers=12"]) == 0

    assert capsys.readouterr().out.startswith("plan of big (gpt3-13b, changed)\n  12 layers of width 5,120")
