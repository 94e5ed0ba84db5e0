"""Speed of `llmrun train` with everything on, against a bare PyTorch loop of the same model, data and D.

    python benchmarks/train_overhead.py [ROUNDS] [STEPS] [PRECISION/D…]

For fp32 and bf16, at D = 1 and D = 2 on the CPU (one thread a rank, gloo), runs `llmrun train` and
benchmarks/bare_loop.py in turn, ROUNDS (default 2) times each for STEPS (default 13) steps, and prints the median
and the shortest time between the ends of two steps, without the first three.  On llmrun's side that time holds
ledger, digests, metrics.jsonl, TensorBoard, checked shards, loader workers and every determinism switch; it is read
from the clock of the TensorBoard events, so nothing between two steps is left out.  Evaluation is off, and
checkpoints are saved only at the end.

The model is that of configs/demo.yaml (3.4 M parameters, 8Ki tokens a step).  A ratio below 1 is llmrun's loss.
"""

import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llmrun.data.prepare import prepare

SKIPPED_STEPS = 3
GB_TOK = 8192
SETTINGS = ("fp32/1", "fp32/2", "bf16/1", "bf16/2")
CONFIG = """\
name: overhead
T_tokens: 1Mi
model: {n_layers: 4, d_model: 256, n_heads: 4, n_kv_heads: 2, d_ff: 688, vocab_size: 4096}
batch: {GB_tok: 8Ki, μ_tok: 2Ki, L_ctx: 128, V: 4}
optimizer: {lr: 1e-3}
schedule: {warmup_tokens: 64Ki}
data: {path: data, num_workers: 1}
eval: {every_steps: null}
reproducibility: {compare_with: none}
hardware: {device: cpu, threads_per_rank: 1}
"""


@dataclass
class Times:
    """Seconds between the ends of two steps, of all rounds of one side."""

    seconds: list[float] = field(default_factory=list)

    def add(self, ended_s: list[float]) -> None:
        """Take in one run: the time at the end of each step."""
        steady = ended_s[SKIPPED_STEPS - 1 :]
        self.seconds += [later - earlier for earlier, later in itertools.pairwise(steady)]

    @property
    def median(self) -> float:
        """The median step."""
        return statistics.median(self.seconds)


def make_place(directory: Path) -> None:
    """A config and a dataset of words drawn at random."""
    words = random.Random(0).choices(
        ["gradient", "lane", "step", "token", "ledger", "the", "of", "a"], k=400_000
    )
    (directory / "text.txt").write_text(" ".join(words), encoding="utf-8")
    prepare([directory / "text.txt"], directory / "data", "byte", val_fraction=0.01)
    (directory / "overhead.yaml").write_text(CONFIG, encoding="utf-8")


def call(command: list[str], directory: Path) -> str:
    """Standard output of a command; ends this one where it fails."""
    variables = {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "GIT_CEILING_DIRECTORIES": str(directory.parent),
    }
    done = subprocess.run(
        command, cwd=directory, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def llmrun_steps(directory: Path, precision: str, D: int, steps: int) -> list[float]:
    """One run of `llmrun train`: the wall time of each step's event."""
    name = f"{precision}-{D}-{len(list(directory.glob('runs/*')))}"
    settings = [f"--set=precision={precision}", f"--set=batch.D={D}"]
    command = [sys.executable, "-m", "llmrun", "train", "overhead.yaml", "--run", name, "--until", str(steps)]
    call([*command, *settings], directory)
    return list(event_times(directory / "runs" / name / "tensorboard"))


def event_times(tensorboard: Path) -> Iterator[float]:
    """Wall times of the events that hold a step's loss."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    (file,) = tensorboard.iterdir()
    for event in LegacyEventFileLoader(str(file)).Load():
        if any(value.tag == "loss" for value in event.summary.value):
            yield event.wall_time


def bare_steps(directory: Path, precision: str, D: int, steps: int) -> list[float]:
    """One run of the bare loop."""
    script = [str(Path(__file__).with_name("bare_loop.py")), "overhead.yaml", str(steps)]
    config = directory / "overhead.yaml"
    config.write_text(f"{CONFIG}precision: {precision}\n", encoding="utf-8")
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={D}"] if D > 1 else []
    out = call([sys.executable, *torchrun, *script], directory)
    config.write_text(CONFIG, encoding="utf-8")
    found: list[float] = json.loads(out.splitlines()[-1])
    return found


def measure(directory: Path, precision: str, D: int, rounds: int, steps: int) -> str:
    """Both sides in turn; one line of the table."""
    ours, bare = Times(), Times()
    for _ in range(rounds):
        ours.add(llmrun_steps(directory, precision, D, steps))
        bare.add(bare_steps(directory, precision, D, steps))
    fastest = min(bare.seconds) / min(ours.seconds)
    return (
        f"{precision:<10}{D:>2}{GB_TOK / ours.median:>12,.0f}{GB_TOK / bare.median:>12,.0f}"
        f"{bare.median / ours.median:>9.3f}{min(ours.seconds):>12.3f}{min(bare.seconds):>11.3f}{fastest:>9.3f}"
        f"{os.getloadavg()[0]:>7.1f}"
    )


def main() -> None:
    """Measure each setting and print a table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 13
    print(f"{'':12}{'tokens/s, median step':>24}{'':9}{'shortest step, s':>23}")
    print(
        f"{'precision':<10}{'D':>2}{'llmrun':>12}{'bare':>12}{'ratio':>9}{'llmrun':>12}{'bare':>11}{'ratio':>9}{'load':>7}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary).resolve()
        make_place(directory)
        for setting in sys.argv[3:] or SETTINGS:
            precision, D = setting.split("/")
            print(measure(directory, precision, int(D), rounds, steps), flush=True)


if __name__ == "__main__":
    main()
