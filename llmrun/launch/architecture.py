"""Whether a checkpoint's tensors are those of the model that a config describes."""

from collections.abc import Mapping
from typing import Any

from llmrun.checkpoint.contents import Checkpoint
from llmrun.config.resolve import Resolved
from llmrun.errors import RefusedError
from llmrun.launch.changes import changed_fields
from llmrun.plan.parameters import parameter_shapes
from llmrun.text import command

SHOWN_MAX = 4


def refuse_other_architecture(
    checkpoint: Checkpoint, resolved: Resolved, old_config: Mapping[str, Any]
) -> None:
    """A state fits one architecture only, and no permission changes that.

    old_config: the full config that the checkpoint was written under.
    Raises RefusedError that shows what differs and points to `llmrun migrate`.
    """
    wanted = parameter_shapes(resolved.shape)
    found = {
        name: entry.shape for name, entry in checkpoint.manifest.tensors.items() if entry.kind == "parameter"
    }
    lines = [
        f"{name}: {_shown(found.get(name))} in the checkpoint, {_shown(wanted.get(name))} in the model"
        for name in [*wanted, *(name for name in found if name not in wanted)]
        if found.get(name) != wanted.get(name)
    ]
    if not lines:
        return
    model = resolved.config.model_dump(mode="json", by_alias=True)["model"]
    fields = changed_fields(old_config["model"], model, "model")
    more = [f"{len(lines) - SHOWN_MAX} more tensors"] if len(lines) > SHOWN_MAX else []
    raise RefusedError(
        f"{checkpoint.path.name} is a state of another architecture: "
        + (", ".join(fields) or f"{len(lines)} tensors differ"),
        where=str(checkpoint.path),
        caused_by=[*lines[:SHOWN_MAX], *more],
        hints=[
            "undo the change to continue exactly",
            (
                f"`{command('llmrun', 'migrate', checkpoint.path)} --config CONFIG --script FILE --out DIR` makes a new run of it, "
                "by a script that says what becomes of each tensor (docs/migration.md)"
            ),
        ],
    )


def _shown(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "scalar"
