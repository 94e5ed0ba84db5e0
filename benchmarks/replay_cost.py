"""What it costs to execute recorded steps again, against training them.

    python benchmarks/replay_cost.py [STEPS]

Trains configs/demo.yaml's shape (3.4 M parameters, 8Ki tokens a step) for STEPS (default 24) steps on the CPU at D = 1
with a checkpoint every third of them, then replays the last two thirds with `llmrun replay RUN`, in two lengths.
Prints seconds a step in training (between the starts of forward passes, as the workers measure it) and in the replay,
what a replay takes beside its steps (starting two processes, reading the checkpoint, comparing), and the bytes of the checkpoint.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llmrun.data.prepare import prepare

CONFIG = """\
name: replayed
T_tokens: 1Mi
model: {n_layers: 4, d_model: 256, n_heads: 4, n_kv_heads: 2, d_ff: 688, vocab_size: 4096}
batch: {GB_tok: 8Ki, μ_tok: 2Ki, L_ctx: 128, V: 4, D: 1}
optimizer: {lr: 1e-3}
schedule: {warmup_tokens: 64Ki}
data: {path: data, num_workers: 1}
eval: {every_steps: null}
checkpoint: {every_steps: EVERY, keep_last: 9}
reproducibility: {compare_with: none}
hardware: {device: cpu, threads_per_rank: 1}
"""


def make_place(directory: Path, every: int) -> None:
    """A config and a dataset of words drawn at random."""
    words = random.Random(0).choices(
        ["gradient", "lane", "step", "token", "ledger", "the", "of", "a"], k=400_000
    )
    (directory / "text.txt").write_text(" ".join(words), encoding="utf-8")
    prepare([directory / "text.txt"], directory / "data", "byte", val_fraction=0.01)
    (directory / "replayed.yaml").write_text(CONFIG.replace("EVERY", str(every)), encoding="utf-8")


def llmrun(directory: Path, *arguments: str) -> tuple[str, float]:
    """(standard output, wall seconds) of one command; ends this one where it fails."""
    variables = {"GIT_CEILING_DIRECTORIES": str(directory.parent)}
    begun_s = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "llmrun", *arguments],
        cwd=directory,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"llmrun {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout, time.perf_counter() - begun_s


def main() -> None:
    """Train, replay twice, print a table."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    third = steps // 3
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary).resolve()
        make_place(directory, third)
        _, trained_s = llmrun(directory, "train", "replayed.yaml", "--run", "run", "--until", str(3 * third))
        saved = directory / "runs" / "run" / "checkpoints" / f"step-{third:08d}"
        n_bytes = sum(path.stat().st_size for path in saved.iterdir())
        print(f"trained {3 * third} steps in {trained_s:.1f} s; a checkpoint is {n_bytes / 1e6:.1f} MB")
        print(
            f"{'replayed':>9}{'s a step':>10}{'trained':>10}{'ratio':>8}{'beside steps, s':>17}{'whole command, s':>18}{'load':>7}"
        )
        for count in (third, 2 * third):
            output, whole_s = llmrun(
                directory, "replay", "run", "--from", str(third), "--steps", str(count), "--json"
            )
            (executed,) = json.loads(output)["replay"]["executed"]
            here, then = executed["step_seconds"], executed["training_step_seconds"]
            rest = whole_s - count * here
            print(
                f"{count:>9}{here:>10.3f}{then:>10.3f}{here / then:>8.3f}{rest:>17.2f}{whole_s:>18.2f}{os.getloadavg()[0]:>7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
