"""Compares a checkpoint with what its run recorded of the same step, in the ledger or at its origin.  Needs no torch.

The files of a checkpoint can agree with each other and still hold another state than the one that was trained.  The
ledger's record of the step decides: its digests combine those in the manifest.
"""

from collections.abc import Sequence
from pathlib import Path

from llmrun.core.combined_digest import TensorDigest, combine_digests
from llmrun.errors import LlmrunError
from llmrun.run.directory import RunDirectory
from llmrun.run.origin import Origin, origin_of
from llmrun.storage.checkpoint.errors import Damage
from llmrun.storage.checkpoint.layout import MANIFEST
from llmrun.storage.checkpoint.manifest import CheckpointManifest
from llmrun.storage.checkpoint.reader import Checkpoint
from llmrun.storage.checkpoint.verification import RecordCheck
from llmrun.storage.ledger.reader import LedgerReader
from llmrun.storage.ledger.record import LedgerRecord


def groups_of(manifest: CheckpointManifest) -> dict[str, dict[str, TensorDigest]]:
    """The digests in a manifest by quantity (weights: parameters, buffers, extra; optimizer), then by tensor."""
    groups: dict[str, dict[str, TensorDigest]] = {"weights": {}, "optimizer": {}}
    for name, entry in manifest.tensors.items():
        quantity = "optimizer" if entry.kind.startswith("optimizer/") else "weights"
        groups[quantity][name] = TensorDigest(entry.dtype, entry.shape, int(entry.digest, 16))
    return groups


def parameters_of(manifest: CheckpointManifest) -> dict[str, TensorDigest]:
    """The digests of the parameters, which the ledger's `weights_digest` combines."""
    weights = groups_of(manifest)["weights"]
    return {name: weights[name] for name, entry in manifest.tensors.items() if entry.kind == "parameter"}


def compare_with_record(checkpoint: Checkpoint, record: LedgerRecord) -> list[str]:
    """The quantities in which a checkpoint differs from the ledger's record of its step.

    Returns some of weights, optimizer, tokens, chain.  What the record does not hold is not compared.
    """
    manifest = checkpoint.manifest
    return [
        *_unequal_digests(manifest, record.weights_digest, record.optimizer_digest),
        *([] if record.tokens in {None, manifest.tokens} else ["tokens"]),
        *([] if record.chain.hex() == manifest.chain else ["chain"]),
    ]


def compare_with_origin(checkpoint: Checkpoint, origin: Origin) -> list[str]:
    """The quantities in which a checkpoint differs from the state that a migrated run begins with.

    Returns some of weights, optimizer, chain.
    """
    manifest = checkpoint.manifest
    return [
        *_unequal_digests(manifest, int(origin.weights, 16), int(origin.optimizer, 16)),
        *([] if origin.chain.hex() == manifest.chain else ["chain"]),
    ]


def record_check_of(run: RunDirectory) -> RecordCheck:
    """The check of a run's checkpoints against its records.

    Compares weights and tokens, and the optimizer state at the steps whose ledger record has its digest.  The state
    that a migrated run begins with is compared with `provenance/migration.json`.  The check passes if the ledger
    cannot be read, is damaged up to the step, or has another chain there than the checkpoint: then the ledger is in
    doubt, not the checkpoint, and the caller checks the ledger.
    """
    try:
        ledger = LedgerReader(run.ledger_file)
        broken = ledger.verify_chain()
        origin = origin_of(run)
    except (OSError, LlmrunError):
        return lambda _: ()

    def check(checkpoint: Checkpoint) -> Sequence[Damage]:
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

    return check


def record_check_for(path: Path) -> RecordCheck:
    """The check of the run whose `checkpoints/` holds the checkpoint directory `path`; it passes if there is none."""
    return record_check_of(RunDirectory(path.resolve().parent.parent))


def _damages(checkpoint: Checkpoint, unequal: Sequence[str], stated: str) -> list[Damage]:
    """One damage that names all unequal quantities; [] if there are none."""
    if not unequal:
        return []
    message = f"has other {' and '.join(unequal)} than {stated}"
    return [Damage(checkpoint.path.name, MANIFEST, message, "contradiction")]


def _unequal_digests(manifest: CheckpointManifest, weights: int | None, optimizer: int | None) -> list[str]:
    """Which of two combined digests (None: not compared) differ from those of a manifest."""
    stated = {
        "weights": (weights, parameters_of(manifest)),
        "optimizer": (optimizer, groups_of(manifest)["optimizer"]),
    }
    return [
        quantity
        for quantity, (digest, tensors) in stated.items()
        if digest is not None and combine_digests(tensors) != digest
    ]
