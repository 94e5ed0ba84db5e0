"""What a user should know of a plan before starting: each remark says it, and what to do."""

import math
from typing import NamedTuple

from llmrun.cgroups import cgroup_limits
from llmrun.machine import memory_bytes
from llmrun.plan.fit import Remedy
from llmrun.plan.plan import Plan, fitting
from llmrun.plan.render.language import Said
from llmrun.text import format_bytes


class Remark(NamedTuple):
    """Something worth a warning: a statement and what to do."""

    message: Said
    hint: Said


def remarks(plan: Plan) -> list[Remark]:
    """Ranks that wait for others, tokens seen again, a rank that needs more than its device or machine has."""
    return [*_uneven(plan), *_epochs(plan), *_memory(plan), *_machine(plan)]


def _uneven(plan: Plan) -> list[Remark]:
    """Ranks that wait for others."""
    batch = plan.batch
    if plan.lanes.idle_share == 0:
        return []
    smallest, largest = plan.A_per_rank
    cheap = max(D for D in range(1, batch.D + 1) if batch.V % D == 0)
    message = Said(
        "D = {D} does not divide V = {V}: ranks compute {smallest} to {largest} micro-batches a step, "
        "and {share:.0%} of their time is waiting",
        {
            "D": batch.D,
            "V": batch.V,
            "smallest": smallest,
            "largest": largest,
            "share": plan.lanes.idle_share,
        },
    )
    hint = Said(
        "D = {cheap} divides V; or start the run with a V that D = {D} divides (other bits)",
        {"cheap": cheap, "D": batch.D},
    )
    return [Remark(message, hint)]


def _epochs(plan: Plan) -> list[Remark]:
    """Tokens that are seen again."""
    batch = plan.batch
    if not plan.train_tokens or plan.train_tokens >= batch.tokens_seen:
        return []
    message = Said(
        "the training split has {train:,} tokens and the run sees {seen:,}: {epochs:.2f} epochs",
        {"train": plan.train_tokens, "seen": batch.tokens_seen, "epochs": plan.epochs},
    )
    whole = plan.train_tokens // batch.gb_tok * batch.gb_tok
    if whole:
        return [Remark(message, Said("`--set T_tokens={whole}` is at most one epoch", {"whole": whole}))]
    return [Remark(message, Said("prepare more data", {}))]


def _memory(plan: Plan) -> list[Remark]:
    """A rank that needs more than its device has."""
    if plan.accelerator is None or plan.memory.device_bytes <= plan.accelerator.memory_bytes:
        return []
    found = fitting(plan)
    assert found is not None
    message = Said(
        "a rank needs {needs}, {name} has {has}",
        {
            "needs": format_bytes(plan.memory.device_bytes),
            "name": plan.accelerator.name,
            "has": format_bytes(plan.accelerator.memory_bytes),
        },
    )
    remedy = next((remedy for remedy in found.remedies if remedy.fits), None)
    if remedy is not None:
        return [Remark(message, _way(remedy))]
    nothing = Said(
        "nothing that llmrun can do suffices: at most {n:,} blocks of this width fit",
        {"n": found.most_layers},
    )
    return [Remark(message, nothing)]


def _machine(plan: Plan) -> list[Remark]:
    """CPU ranks that need more than this machine, or a control group of it, lets them have."""
    if plan.config.hardware.device != "cpu" or plan.accelerator is not None:
        return []
    found = []
    D, has = plan.batch.D, memory_bytes()
    needs = D * plan.memory.device_bytes
    if needs > has:
        message = Said(
            "the run needs {needs} on this machine, which lets it have {has}",
            {"needs": format_bytes(needs), "has": format_bytes(has)},
        )
        found.append(Remark(message, Said("lower batch.D, or batch.μ_tok (other bits)", {})))
    threads, allowed = D * plan.config.hardware.threads_per_rank, cgroup_limits().cpus
    if allowed is not None and threads > math.ceil(allowed):
        message = Said(
            "the run has {threads:,} threads, a control group lets {cpus:g} processors run",
            {"threads": threads, "cpus": allowed},
        )
        found.append(Remark(message, Said("lower batch.D, or raise the limit", {})))
    return found


def _way(remedy: Remedy) -> Said:
    """What makes it fit, and its price."""
    values = {
        "settings": " ".join(f"--set {setting}" for setting in remedy.settings),
        "bytes": format_bytes(remedy.bytes),
    }
    if remedy.same_bits:
        return Said(
            "`{settings}` needs {bytes} (the same bits); `llmrun plan --explain` lists all ways", values
        )
    return Said("`{settings}` needs {bytes} (other bits); `llmrun plan --explain` lists all ways", values)
