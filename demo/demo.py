"""The whole job once: prepare, plan, train, kill, resume, train again, verify, sample.

Two runs of one config: the first is killed with SIGKILL on the way and resumed, the second is never
interrupted.  They must be bitwise equal.  Everything goes through the `llmrun` command.

Usage: python demo/demo.py [RUNS_DIR]      (default runs; an earlier demo there is left alone)
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

from corpus import ROOT, CorpusError, fetch

LLMRUN = [str(Path(sys.executable).with_name("llmrun"))]
CONFIG = "configs/demo.yaml"
DATASET = Path("data/demo")
KILL_AFTER_STEP = 152
PROMPT = "My fellow Americans, "


def notify(text: str) -> None:
    """A heading before each stage."""
    sys.stdout.write(f"\n\033[1m{text}\033[0m\n" if sys.stdout.isatty() else f"\n{text}\n")
    sys.stdout.flush()


def llmrun(*arguments: str) -> None:
    """Run one llmrun command on this terminal; the demo ends with its exit code where it fails."""
    notify(f"$ llmrun {' '.join(arguments)}")
    code = subprocess.run([*LLMRUN, *arguments], check=False).returncode
    if code:
        sys.exit(code)


def answer(*arguments: str) -> dict:
    """The JSON document of one llmrun command."""
    done = subprocess.run([*LLMRUN, *arguments, "--json"], check=False, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def prepare_data() -> None:
    """Corpus and dataset, once."""
    notify("1. A corpus: the State of the Union messages, 1790-2026 (public domain)")
    fetch(Path("build/corpus"))
    arguments = ["--tokenizer", "bpe", "--vocab-size", "2Ki", "--val-fraction", "0.02"]
    llmrun("data", "prepare", "build/corpus/sotu", "--out", str(DATASET), *arguments)


def train_until_killed(run: str, runs_dir: str) -> None:
    """Start a run and SIGKILL its launcher once it is well under way: no warning, no cleaning up."""
    arguments = ["train", CONFIG, "--run", run, "--set", f"runs_dir={runs_dir}"]
    notify(f"$ llmrun {' '.join(arguments)}      (killed with SIGKILL after step {KILL_AFTER_STEP})")
    process = subprocess.Popen([*LLMRUN, *arguments])
    metrics = Path(runs_dir) / run / "metrics.jsonl"
    while steps_in(metrics) < KILL_AFTER_STEP:
        if process.poll() is not None:
            sys.exit(process.returncode or 1)
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    notify("killed: SIGKILL to the launcher, in the middle of a step")


def steps_in(metrics: Path) -> int:
    """Steps that a run has recorded so far."""
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def last_screen(killed: Path, straight: Path, verdict: dict) -> None:
    """What was proven, in five lines."""
    rows = [json.loads(line) for line in (killed / "metrics.jsonl").read_text().splitlines()]
    record = json.loads((killed / "run.json").read_text())
    values = [row for row in rows if "val_loss" in row]
    first, last = values[0], values[-1]
    proven = sum(segment.get("proven_steps") or 0 for segment in record["segments"])
    notify("What was proven")
    lines = [
        f"killed and resumed = never interrupted: {verdict['steps_compared']} steps and every tensor, bit for bit",
        f"ledger chain {verdict['chain'][:32]}…, fingerprint {record['fingerprint']['digest'][:16]}…",
        f"{proven} steps were lost by the kill, computed again, and had the bits recorded before it",
        f"validation loss {first['val_loss']:.3f} -> {last['val_loss']:.3f} nats per token, {last['val_bits_per_byte']:.2f} bits per byte",
        f"the runs lie in {killed} and {straight}",
    ]
    sys.stdout.write("".join(f"  {line}\n" for line in lines))


def main() -> int:
    """Run the demo; returns the exit code."""
    runs_dir = sys.argv[1] if len(sys.argv) > 1 else "runs"
    os.chdir(ROOT)
    try:
        prepare_data()
    except CorpusError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    notify("2. The plan")
    llmrun("plan", CONFIG)
    mark = secrets.token_hex(2)
    killed, straight = f"demo-killed-{mark}", f"demo-straight-{mark}"
    notify("3. Train at D = 2, be killed, resume")
    train_until_killed(killed, runs_dir)
    llmrun("resume", f"{runs_dir}/{killed}")
    notify("4. The same run again, never interrupted")
    llmrun("train", CONFIG, "--run", straight, "--set", f"runs_dir={runs_dir}")
    notify("5. Are they equal?")
    llmrun("verify", f"{runs_dir}/{killed}", f"{runs_dir}/{straight}")
    notify("6. What the model writes")
    llmrun("sample", f"{runs_dir}/{killed}", "--prompt", PROMPT, "--tokens", "120")
    verdict = answer("verify", f"{runs_dir}/{killed}", f"{runs_dir}/{straight}")
    last_screen(Path(runs_dir) / killed, Path(runs_dir) / straight, verdict)
    return 0 if verdict["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
