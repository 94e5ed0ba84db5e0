"""What a user should know of a plan before the run starts."""

import math
from typing import NamedTuple

from llmrun.cgroups import cgroup_limits
from llmrun.machine import memory_bytes
from llmrun.plan.note import Note, NoteKind
from llmrun.plan.plan import Plan, fitting


class PlanWarning(NamedTuple):
    """A problem, and what to do about it."""

    problem: Note
    hint: Note


def plan_warnings(plan: Plan) -> list[PlanWarning]:
    """Ranks that wait, tokens that are read again, more memory or threads than device or machine have."""
    return [*_uneven(plan), *_epochs(plan), *_device_memory(plan), *_machine(plan)]


def _uneven(plan: Plan) -> list[PlanWarning]:
    batch = plan.batch
    if plan.lanes.idle_share == 0:
        return []
    smallest, largest = plan.A_per_rank
    cheap = max(D for D in range(1, batch.D + 1) if batch.V % D == 0)
    fields = {
        "D": batch.D,
        "V": batch.V,
        "smallest": smallest,
        "largest": largest,
        "share": plan.lanes.idle_share,
    }
    return [PlanWarning(Note("uneven", fields), Note("even_D", {"cheap": cheap, "D": batch.D}))]


def _epochs(plan: Plan) -> list[PlanWarning]:
    batch = plan.batch
    if not plan.train_tokens or plan.train_tokens >= batch.tokens_seen:
        return []
    fields = {"train": plan.train_tokens, "seen": batch.tokens_seen, "epochs": plan.epochs}
    whole = plan.train_tokens // batch.gb_tok * batch.gb_tok
    hint = Note("one_epoch", {"whole": whole}) if whole else Note("more_data")
    return [PlanWarning(Note("epochs", fields), hint)]


def _device_memory(plan: Plan) -> list[PlanWarning]:
    found = fitting(plan)
    if plan.accelerator is None or found is None or found.fits:
        return []
    fields = {
        "needed_bytes": found.needs,
        "name": plan.accelerator.name,
        "device_bytes": plan.accelerator.memory_bytes,
    }
    remedy = next((remedy for remedy in found.remedies if remedy.fits), None)
    if remedy is None:
        hint = Note("too_many_layers", {"most": found.most_layers})
    else:
        kind: NoteKind = "remedy_same_bits" if remedy.same_bits else "remedy_other_bits"
        hint = Note(kind, {"settings": remedy.settings, "bytes": remedy.bytes})
    return [PlanWarning(Note("device_memory", fields), hint)]


def _machine(plan: Plan) -> list[PlanWarning]:
    """CPU ranks that need more memory or threads than this machine, or its control group, allows."""
    if plan.config.hardware.device != "cpu" or plan.accelerator is not None:
        return []
    found = []
    D, available = plan.batch.D, memory_bytes()
    needed = D * plan.memory.state_bytes  # at least, if the activations are unknown
    if needed > available:
        problem = Note("machine_memory", {"needed_bytes": needed, "machine_bytes": available})
        found.append(PlanWarning(problem, Note("smaller_run")))
    threads, allowed = D * plan.config.hardware.threads_per_rank, cgroup_limits().cpus
    if allowed is not None and threads > math.ceil(allowed):
        problem = Note("cpu_limit", {"threads": threads, "cpus": allowed})
        found.append(PlanWarning(problem, Note("fewer_threads")))
    return found
