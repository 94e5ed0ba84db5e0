"""Where runs are shot at: a small dataset, a small config, and the run that is never killed."""

from pathlib import Path

from chaos.checks import Finding, Truth
from chaos.fire import play
from chaos.launcher import Task, probed
from llmrun.run.directory import RunDirectory
from warm.driver import make_dataset

STEPS = 60

CONFIG = f"""
name: chaos
T_tokens: {STEPS * 256}
model: {{n_layers: 1, d_model: 72, n_heads: 4, n_kv_heads: 2, d_ff: 43, dropout: 0.1}}
batch: {{GB_tok: 256, μ_tok: 32, L_ctx: 16, V: 8, D: 1}}
optimizer: {{lr: 3e-3}}
schedule: {{warmup_tokens: 1Ki}}
data: {{path: DATA, num_workers: 0}}
eval: {{every_steps: 4, windows: 8}}
checkpoint: {{every_steps: 3, keep_last: 2, keep_best: true}}
reproducibility: {{compare_with: none}}
hardware: {{device: cpu}}
"""


def make_ground(directory: Path) -> Truth:
    """Dataset, config and the straight run, which keeps every step.  Raises Finding."""
    probed()
    config = directory / "config.yaml"
    config.write_text(CONFIG.replace("DATA", str(make_dataset(directory))))
    run = RunDirectory(directory / "runs" / "straight")
    every = ("checkpoint.every_steps=1", "checkpoint.keep_every_steps=1")
    seen = play(Task(run, config, every, D=1), directory / "straight.log")
    if [event["why"] for event in seen.all("ended")] != ["finished"]:
        raise Finding("ending", f"the run that nobody kills did not finish: {seen.events[-1:]}")
    return Truth(run, STEPS)
