"""What a migration writes down: where the state came from, what made it, what is new in it."""

from collections.abc import Mapping
from typing import Any

from llmrun.config.resolve import Resolved, training_spec
from llmrun.migrate.mapping import Mapped
from llmrun.run.origin import MIGRATION_FORMAT, Origin
from llmrun.storage.checkpoint.layout import MANIFEST
from llmrun.storage.checkpoint.manifest import TRAINER_FORMAT
from llmrun.storage.checkpoint.reader import Checkpoint, read_sums
from llmrun.storage.metrics.throughput import MovingAverage


def migration_of(checkpoint: Checkpoint, state: Mapped, origin: Origin) -> dict[str, Any]:
    """The document `llmrun-migration/1` (docs/migration.md).  Nothing in it depends on a path."""
    return {
        "format": MIGRATION_FORMAT,
        "parent": {
            "manifest_sha256": read_sums(checkpoint.path)[MANIFEST],
            "step": checkpoint.step,
            "fingerprint": checkpoint.manifest.fingerprint,
            "chain": checkpoint.manifest.chain,
        },
        "script": {"name": state.script.path.name, "sha256": state.script.sha256},
        "origin": origin.as_json(),
        "initialised": state.initialised,
        "mixed": state.mixed,
        "zero_moments": state.without_moments,
        "dropped": state.dropped,
    }


def trainer_of(
    resolved: Resolved,
    step: int,
    n_windows: int,
    optimizer_step: int,
    migration: Mapping[str, Any],
    text: str,
) -> dict[str, Any]:
    """trainer.json of the migrated state: its place in the new run; what was evaluated was another model's.

    n_windows: of the training split.  optimizer_step: updates that the moments have seen.  text: the script.
    """
    from llmrun.core.schedule import learning_rate

    spec = training_spec(resolved)
    batch = spec.batch
    position = position_of(resolved, step)
    return {
        "format": TRAINER_FORMAT,
        "step": step,
        "data_position": position,
        "epoch": position // n_windows,
        "schedule": {
            "name": spec.schedule.name,
            "learning_rate": learning_rate(step, batch, spec.schedule, spec.optimizer.lr),
            "steps": batch.steps,
        },
        "optimizer": {"name": spec.optimizer.name, "step": optimizer_step},
        "val_ppl": None,
        "best_val_ppl": None,
        "best_step": None,
        "best_saved_step": None,
        "metrics": {"loss_smooth": MovingAverage().state()},
        "quarantine": [],
        "migration": {**migration, "script": {**migration["script"], "text": text}},
    }


def position_of(resolved: Resolved, step: int) -> int:
    """Sequences that a run of this config has read after `step` steps."""
    return step * resolved.batch.M * resolved.batch.sequences


def optimizer_step_of(checkpoint: Checkpoint) -> int:
    """Updates that the old moments have seen: AdamW's bias correction goes on from there."""
    optimizer = checkpoint.trainer.get("optimizer")
    found = optimizer.get("step") if isinstance(optimizer, Mapping) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else checkpoint.step


def notes_on(checkpoint: Checkpoint, resolved: Resolved, data_digest: str) -> list[str]:
    """What else is not as it was, and a user should know of."""
    notes = []
    if checkpoint.manifest.parts.get("data") != data_digest:
        notes.append("the dataset is not the one that the old run was trained on")
    before, now = checkpoint.trainer.get("data_position"), position_of(resolved, checkpoint.step)
    if isinstance(before, int) and before != now:
        notes.append(
            f"the old run had read {before:,} sequences; after step {checkpoint.step:,} of the new config the "
            f"order goes on at sequence {now:,}"
        )
    return notes
