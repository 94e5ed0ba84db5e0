"""The nearest settings that make a batch consistent; each is checked before it is proposed."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from math import lcm

from llmrun.config.batch_rules import Fault, Stated, faults
from llmrun.core.batch import default_V

Change = dict[str, int | None]

FARTHEST = 4096
"""Search distance for D, V and μ_tok, in units."""

LARGEST_COUNT = 65_536

SET_NAMES = {
    "gb_tok": "batch.GB_tok", "mu_tok": "batch.mu_tok", "V": "batch.V", "D": "batch.D", "A": "batch.A", "T_tokens": "T_tokens",
    "allows_uneven": "batch.uneven",
}  # fmt: skip


def remedies(s: Stated, fault: Fault) -> list[Change]:
    """The nearest changes that remove `fault` and introduce no other, without repetitions."""
    found: list[Change] = []
    for search in SEARCHES[fault]:
        found += [change for change in search(s, fault) if change not in found]
    return found


def hint_for(s: Stated, fault: Fault) -> str | None:
    """The remedies as `--set` options, or None if there are none."""
    shown = [_show(s, change) for change in remedies(s, fault)]
    if not shown:
        return None
    return f"{'any of these works' if len(shown) > 1 else 'this works'}: {'; '.join(shown)}"


def removes(s: Stated, change: Change, fault: Fault) -> bool:
    """Whether a change removes `fault` and introduces no other."""
    return faults(replace(s, **change)) <= faults(s) - {fault}  # type: ignore[arg-type]


def completed(s: Stated, change: Change, fault: Fault) -> Change | None:
    """`change` with the smallest addition that removes `fault` (another V, no stated A), or None if none does."""
    changed = replace(s, **change)  # type: ignore[arg-type]
    no_A: Change = {"A": None} if s.A is not None and "A" not in change else {}
    V: Change = {"V": _roomy_V(changed)} if changed.M and "V" not in change else {}
    for further in ({}, no_A, V, {**V, **no_A}):
        if removes(s, {**change, **further}, fault):
            return {**change, **further}
    return None


def _roomy_V(s: Stated) -> int:
    """The default V, or D if that is larger."""
    assert s.M is not None
    return max(default_V(s.M), s.D or 1)


def _nearest(s: Stated, fault: Fault, below: Iterable[Change], above: Iterable[Change]) -> Iterator[Change]:
    """The first change in each direction that removes `fault`."""
    for candidates in (below, above):
        changes = (completed(s, change, fault) for change in candidates)
        found = next((change for change in changes if change is not None), None)
        if found is not None:
            yield found


def _around(name: str, value: int, most: int) -> tuple[Iterator[Change], Iterator[Change]]:
    """Changes of one field, outwards from `value`: down to 1, and up to `most`."""
    start = min(value - 1, most)
    below = range(start, max(0, start - FARTHEST), -1)
    above = range(value + 1, min(most, value + FARTHEST) + 1)
    return ({name: v} for v in below), ({name: v} for v in above)


def _uneven(s: Stated, fault: Fault) -> Iterator[Change]:
    """The stated D with an uneven split of micro-batches."""
    change: Change = {"allows_uneven": True, **({"A": None} if s.A is not None else {})}
    if removes(s, change, fault):
        yield change


def _other_D(s: Stated, fault: Fault) -> Iterator[Change]:
    """The nearest D for this GB_tok and V."""
    if s.D is None or s.lanes is None:
        return
    below, above = _around("D", s.D, s.lanes)
    fits = [
        (change for change in side if s.gb_tok % (s.mu_tok * (change["D"] or 1)) == 0)
        for side in (below, above)
    ]
    yield from _nearest(s, fault, *fits)


def _other_V(s: Stated, fault: Fault) -> Iterator[Change]:
    """The nearest V that divides M and is at least D."""
    if s.V is None:
        return
    yield from _nearest(s, fault, *_around("V", s.V, LARGEST_COUNT))


def _V_for_D(s: Stated, fault: Fault) -> Iterator[Change]:
    """V = D."""
    change: Change = {"V": s.D}
    if removes(s, change, fault):
        yield change


def _other_gb(s: Stated, fault: Fault) -> Iterator[Change]:
    """The nearest GB_tok below and above that the stated D divides, and V if possible."""
    ranks = s.mu_tok * (s.D or 1)
    units = (s.mu_tok * lcm(s.D or 1, s.V or 1), ranks)
    below: list[Change] = [{"gb_tok": s.gb_tok // unit * unit} for unit in units if s.gb_tok >= unit]
    above: list[Change] = [{"gb_tok": -(-s.gb_tok // unit) * unit} for unit in units]
    yield from _nearest(s, fault, below, above)


def _smaller_gb(s: Stated, fault: Fault) -> Iterator[Change]:
    """The largest GB_tok that gives one step."""
    unit = s.mu_tok * lcm(s.D or 1, s.V or 1)
    if s.T_tokens >= unit:
        change = completed(s, {"gb_tok": s.T_tokens // unit * unit}, fault)
        if change is not None:
            yield change


def _other_mu(s: Stated, fault: Fault) -> Iterator[Change]:
    """The nearest μ_tok of whole sequences that divides GB_tok."""
    n, top = s.mu_tok // s.L_ctx, s.gb_tok // s.L_ctx
    start = min(n, top)
    below = range(start, max(0, start - FARTHEST), -1)
    above = range(n + 1, min(top, n + FARTHEST) + 1)
    yield from _nearest(
        s,
        fault,
        [{"mu_tok": k * s.L_ctx} for k in below if s.gb_tok % (k * s.L_ctx) == 0],
        [{"mu_tok": k * s.L_ctx} for k in above if s.gb_tok % (k * s.L_ctx) == 0],
    )


def _agreeing(s: Stated, fault: Fault) -> Iterator[Change]:
    """The A, D or GB_tok that solve GB_tok = D·A·μ_tok."""
    assert s.A is not None
    assert s.M is not None
    changes: list[Change] = [{"A": s.M // s.D}] if s.D else [{"A": None}]
    if s.D and s.M % s.A == 0:
        changes.append({"D": s.M // s.A})
    if s.D:
        changes.append({"gb_tok": s.D * s.A * s.mu_tok})
    for change in changes:
        whole = completed(s, change, fault)
        if whole is not None:
            yield whole


def _longer_run(s: Stated, fault: Fault) -> Iterator[Change]:
    """A run of one step."""
    change: Change = {"T_tokens": s.gb_tok}
    if removes(s, change, fault):
        yield change


def _show(s: Stated, change: Change) -> str:
    """A change as `--set` options, with the resulting M or A."""
    options = " ".join(f"--set {SET_NAMES[name]}={_value(v)}" for name, v in change.items())
    if "allows_uneven" in change:
        return f"`{options}` (same bits)"
    after = replace(s, **change)  # type: ignore[arg-type]
    if after.M is None or after.A is not None or not change.keys() & {"gb_tok", "mu_tok", "D"}:
        return f"`{options}`"
    follows = f"M = {after.M:,}" if after.D is None else f"A = {after.M // after.D:,}"
    return f"`{options}` ({follows})"


def _value(value: int | None) -> str:
    """A value as `--set` takes it; True is that of `allows_uneven`."""
    return "null" if value is None else "allow" if value is True else str(value)


Search = Callable[[Stated, Fault], Iterator[Change]]

SEARCHES: dict[Fault, tuple[Search, ...]] = {
    "sequences": (_other_mu,),
    "whole": (_other_gb, _other_mu),
    "ranks": (_uneven, _other_D, _other_gb),
    "agreement": (_agreeing,),
    "lanes": (_other_V, _other_gb),
    "room": (_V_for_D, _other_D),
    "steps": (_longer_run, _smaller_gb),
}
