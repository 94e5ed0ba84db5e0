"""Compares the checkpoints that two runs both hold, and each run's checkpoints with its own ledger."""

from llmrun.checkpoint.layout import step_name
from llmrun.checkpoint.reader import Checkpoint
from llmrun.checkpoint.recorded_state import compare_with_record
from llmrun.checkpoint.verification import Progress
from llmrun.verify.states import StatesCompared, compare_states, sound_checkpoint
from llmrun.verify.subject import Subject


def compare_shared(
    a: Subject, b: Subject, steps: range, stop: int | None, progress: Progress | None = None
) -> StatesCompared:
    """Compare the checkpoints of all `steps` before `stop` (None: all) that both runs hold.

    Those are read byte by byte; of all others of `steps` the structure is checked.  Each is held against
    its own run's ledger.  Ends at the first difference.
    """
    compared = StatesCompared()
    shared = {step for step in a.checkpoints.keys() & b.checkpoints.keys() if stop is None or step < stop}
    opened = {s.label: _open_all(s, steps, shared, compared, progress) for s in (a, b)}
    for step in sorted(shared):
        if step not in opened["A"] or step not in opened["B"]:
            continue
        compared.difference = compare_states(opened["A"][step], opened["B"][step])
        if compared.difference is not None:
            break
        compared.steps.append(step)
        compared.n_tensors += len(opened["A"][step].manifest.tensors)
    return compared


def _open_all(
    subject: Subject, steps: range, shared: set[int], compared: StatesCompared, progress: Progress | None
) -> dict[int, Checkpoint]:
    """The sound checkpoints of one run that are what its ledger recorded; the others go into `compared`."""
    assert subject.ledger is not None
    opened = {}
    for step, path in subject.checkpoints.items():
        if step > subject.ledger.last_step:
            compared.damage.append(
                f"the ledger of {subject.label} ends at step {subject.ledger.last_step}, "
                f"before its checkpoint {step_name(step)}"
            )
        if step not in steps:
            continue
        checkpoint = sound_checkpoint(
            path, compared, subject.label, every_byte=step in shared, progress=progress
        )
        if checkpoint is None:
            continue
        unequal = compare_with_record(checkpoint, subject.ledger.record(step))
        if unequal:
            compared.damage.append(
                f"checkpoint {path.name} of {subject.label} is not the state that its ledger recorded: "
                f"{', '.join(unequal)}"
            )
            continue
        opened[step] = checkpoint
    return opened
