"""The findings of an inspection: errors, operations, hidden state, gradients, the form of the loss."""

from llmrun.check.differences import named
from llmrun.check.report import CheckedProperty
from llmrun.run.inspection import CodePlace, Inspection, Operation
from llmrun.text import counted, listed

_NAMES_MAX = 5

RUNS = ("runs", "forward and backward run")
OPERATIONS = ("operations", "deterministic operations only")
IMPORTS = ("imports", "imports find the model's own files")
STATE = ("no_hidden_state", "no hidden state")
GRADIENTS = ("gradients", "every parameter gets a gradient")
SUM = ("loss_is_a_sum", "the loss is a sum over tokens")


def findings_of_inspection(found: Inspection, device: str) -> list[CheckedProperty]:
    """One finding for each property that a single process can show."""
    if found.error is not None:
        runs = CheckedProperty.at(*RUNS, found.error.place, (found.error.error, *found.error.trace))
        rest = [CheckedProperty(*each, "not_judged") for each in (STATE, GRADIENTS, SUM)]
        return [imports(found), runs, operations(found, device), *rest]
    return [
        imports(found),
        CheckedProperty(*RUNS, "yes"),
        operations(found, device),
        hidden_state(found),
        gradients(found),
        loss(found),
    ]


def imports(found: Inspection) -> CheckedProperty:
    """Whether a file beside the model is hidden by a module of the same name."""
    if not found.shadowed:
        return CheckedProperty(*IMPORTS, "yes")
    details = tuple(
        f"{file} imports {origin}, not {own}: rename {own}" for file, own, origin in found.shadowed
    )
    return CheckedProperty(*IMPORTS, "no", details, source=found.shadowed[0][0])


def operations(found: Inspection, device: str) -> CheckedProperty:
    """Operations that deterministic mode refuses here; on a CPU also, as a warning, those that it refuses on CUDA."""
    if found.refused:
        details = tuple(f"{_shown(each)}: {each.message}" for each in found.refused)
        return CheckedProperty.at(*OPERATIONS, found.refused[0].place, details)
    if device == "cuda":
        return CheckedProperty(*OPERATIONS, "yes")
    if not found.refused_on_cuda:
        return CheckedProperty(*OPERATIONS, "yes")
    place = found.refused_on_cuda[0].place
    details = tuple(f"refused on CUDA: {_shown(each)}" for each in found.refused_on_cuda)
    return CheckedProperty(*OPERATIONS, "warning", details, place.phase, place.module, place.source)


def _shown(operation: Operation) -> str:
    """`aten.put_.default in forward of model.layers.0.mlp, model.py:12`."""
    place = operation.place
    source = "" if place.source is None else f", {place.source}"
    return f"{operation.name} in {place.phase} of {named(place.module)}{source}"


def hidden_state(found: Inspection) -> CheckedProperty:
    """Whether a second pass over the same micro-batch with the same weights gives the same bits, and leaves no trace."""
    details = [f"{name} changes from pass to pass" for _, name in found.changed]
    details += [f"parameter {name} is replaced or moved by a pass" for name in found.replaced]
    details += [f"{a} and {b} share memory but are two parameters" for a, b in found.shared]
    if found.repeated is not None:
        phase, module, what = found.repeated
        text = f"{phase} of {named(module)} ({what}) differs when the same micro-batch is run again with the same weights"
        return CheckedProperty(*STATE, "no", (text, *details), phase, module)
    if not details:
        return CheckedProperty(*STATE, "yes")
    parameters = [*found.replaced, *(name for name, _ in found.shared)]
    holders = [*(name.rpartition(".")[0] for name in parameters), *(module for module, _ in found.changed)]
    return CheckedProperty(*STATE, "no", tuple(details), module=holders[0])


def gradients(found: Inspection) -> CheckedProperty:
    """Whether autograd reaches every parameter that requires a gradient."""
    names = found.without_gradient
    if not names:
        return CheckedProperty(*GRADIENTS, "yes")
    text = f"{counted(len(names), 'parameter')} without gradient: {listed(names, _NAMES_MAX)}"
    place = CodePlace("backward", names[0].rpartition(".")[0], None)
    return CheckedProperty.at(*GRADIENTS, place, (text,))


def loss(found: Inspection) -> CheckedProperty:
    """Whether loss and number of targets add up over sequences, as the sum over lanes needs."""
    if found.not_additive is None:
        return CheckedProperty(*SUM, "yes")
    return CheckedProperty.at(*SUM, CodePlace("forward", "", None), (found.not_additive,))
