"""Holds a checkpoint against what its run recorded of the same step: ledger and origin.  Needs no torch.

Weights, manifest and SHA256SUMS of a checkpoint can agree with each other and still be another state than the
one that was trained.  The ledger's record of the step decides: its digests combine those in the manifest.
"""

from collections.abc import Sequence
from pathlib import Path

from llmrun.core.tensor_digest import TensorDigest, combine_digests
from llmrun.errors import LlmrunError
from llmrun.run.directory import RunDirectory
from llmrun.run.origin import origin_of
from llmrun.storage.checkpoint.errors import Damage
from llmrun.storage.checkpoint.layout import MANIFEST
from llmrun.storage.checkpoint.manifest import CheckpointManifest
from llmrun.storage.checkpoint.reader import Checkpoint
from llmrun.storage.checkpoint.verification import ForecastKeeper
from llmrun.storage.ledger.reader import LedgerReader
from llmrun.storage.ledger.record import LedgerRecord


def groups_of(manifest: CheckpointManifest) -> dict[str, dict[str, TensorDigest]]:
    """The digests in a manifest, by quantity: weights (parameters, buffers, extra) and optimizer."""
    groups: dict[str, dict[str, TensorDigest]] = {"weights": {}, "optimizer": {}}
    for name, entry in manifest.tensors.items():
        quantity = "optimizer" if entry.kind.startswith("optimizer/") else "weights"
        groups[quantity][name] = TensorDigest(entry.dtype, entry.shape, int(entry.digest, 16))
    return groups


def parameters_of(manifest: CheckpointManifest) -> dict[str, TensorDigest]:
    """The digests of the parameters: what the ledger calls weights."""
    weights = groups_of(manifest)["weights"]
    return {name: weights[name] for name, entry in manifest.tensors.items() if entry.kind == "parameter"}


def compare_with_record(checkpoint: Checkpoint, record: LedgerRecord) -> list[str]:
    """In what a checkpoint differs from the ledger's record of its step.

    Returns some of weights, optimizer, tokens, chain.  What the record does not hold is not compared.
    """
    manifest = checkpoint.manifest
    return [
        *_unequal_digests(manifest, record.weights_digest, record.optimizer_digest),
        *([] if record.tokens in {None, manifest.tokens} else ["tokens"]),
        *([] if record.chain.hex() == manifest.chain else ["chain"]),
    ]


def judge_of(run: RunDirectory) -> ForecastKeeper:
    """The judge of a run's checkpoints.

    Compares weights and tokens, and the optimizer state at the steps at which the ledger holds its digest;
    the state that a migrated run begins with is compared with `provenance/migration.json`.  The judge is
    silent if the ledger itself cannot be read, does not hold up to the step, or has another chain there than
    the checkpoint: then it is not the checkpoint that is in doubt, and the caller checks the ledger.
    """
    try:
        ledger = LedgerReader(run.ledger_file)
        broken = ledger.verify_chain()
        origin = origin_of(run)
    except (OSError, LlmrunError):
        return lambda _: ()

    def judge(checkpoint: Checkpoint) -> Sequence[Damage]:
        step, manifest = checkpoint.step, checkpoint.manifest
        if broken is not None and broken <= step:
            return ()
        if origin is not None and step == origin.step:
            unequal = _unequal_digests(manifest, int(origin.weights, 16), int(origin.optimizer, 16))
            return _damages(checkpoint, unequal, f"{run.migration_file.name} states")
        if step not in ledger.steps:
            return ()
        unequal = compare_with_record(checkpoint, ledger.record(step))
        if "chain" in unequal:
            return ()
        return _damages(checkpoint, unequal, f"the ledger recorded at step {step}")

    return judge


def judge_beside(path: Path) -> ForecastKeeper:
    """The judge for a checkpoint's directory: that of the run it lies in, silent if it lies in none."""
    return judge_of(RunDirectory(path.resolve().parent.parent))


def _damages(checkpoint: Checkpoint, unequal: Sequence[str], stated: str) -> list[Damage]:
    """One line for all that is unequal."""
    if not unequal:
        return []
    return [Damage(checkpoint.path.name, MANIFEST, f"has other {' and '.join(unequal)} than {stated}")]


def _unequal_digests(manifest: CheckpointManifest, weights: int | None, optimizer: int | None) -> list[str]:
    """Which of the two combined digests are not those of a manifest; None is not compared."""
    stated = {
        "weights": (weights, parameters_of(manifest)),
        "optimizer": (optimizer, groups_of(manifest)["optimizer"]),
    }
    return [
        quantity
        for quantity, (digest, tensors) in stated.items()
        if digest is not None and combine_digests(tensors) != digest
    ]
