"""Whether a rank fits the memory of its device, and remedies with their price.  All bytes are of `memory_of`."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from llmrun.core.batch import Batch, divisors
from llmrun.core.lanes import cost_of
from llmrun.core.model.flops import checkpointing_flops_per_token, flops_per_token
from llmrun.core.model.parameters import count_parameters
from llmrun.core.model.shape import ModelShape
from llmrun.plan.memory import Setting, memory_of
from llmrun.plan.note import Note

MOST_SEQUENCES = 65_536
"""Most sequences per micro-batch in the search for the largest μ_tok."""


class Remedy(NamedTuple):
    """One way to need less memory.

    name:      stable, for scripts.
    settings:  as `--set` takes them, with the changed A if the user stated one.
    same_bits: whether the bits of a run stay the same.
    bytes:     of one rank, with the remedy.     fits: whether that is at most what the device has.
    price:     what it costs.
    """

    name: str
    settings: tuple[str, ...]
    same_bits: bool
    bytes: int
    fits: bool
    price: tuple[Note, ...]


class Fitting(NamedTuple):
    """How a plan fits the memory of its accelerator.

    has, needs:     bytes of the device, bytes of a rank.
    largest_mu_tok: of `largest_mu_tok`.
    remedies:       what needs less memory, those with the same bits first; empty if the plan fits.
    most_layers:    layers of this width that fit with all remedies together; None if the plan or a remedy fits.
    """

    has: int
    needs: int
    largest_mu_tok: int | None
    remedies: tuple[Remedy, ...]
    most_layers: int | None

    @property
    def fits(self) -> bool:
        """Whether the plan fits as it is."""
        return self.needs <= self.has


class Way(NamedTuple):
    """A change that needs less memory; several can be combined."""

    name: str
    settings: tuple[str, ...]
    same_bits: bool
    apply: Callable[[Setting], Setting]
    price: Note


class Question(NamedTuple):
    """The problem to find remedies for: a rank of `setting` in `has` bytes.

    states_A: whether the user gave A, which then has to change with μ_tok and D.
    """

    shape: ModelShape
    setting: Setting
    batch: Batch
    has: int
    states_A: bool


def fitting_of(
    shape: ModelShape, setting: Setting, batch: Batch, has: int, *, states_A: bool = False
) -> Fitting:
    """How a rank of this setting fits `has` bytes.  states_A: whether the user gave A."""
    needs = bytes_of(shape, setting)
    largest = largest_mu_tok(shape, setting, batch, has)
    if needs <= has:
        return Fitting(has, needs, largest, (), None)
    remedies = tuple(_remedies(Question(shape, setting, batch, has, states_A), largest))
    layers = None if any(remedy.fits for remedy in remedies) else _most_layers(shape, setting, batch, has)
    return Fitting(has, needs, largest, remedies, layers)


def bytes_of(shape: ModelShape, setting: Setting) -> int:
    """Bytes of a rank on its device."""
    return memory_of(shape, setting).state_bytes


def largest_mu_tok(shape: ModelShape, setting: Setting, batch: Batch, has: int) -> int | None:
    """The largest μ_tok that fits, in tokens, or None if one sequence does not fit.

    All else stays as it is: M is a multiple of V and, if it is one now, of D.
    """
    sequences = batch.gb_tok // (batch.L_ctx * batch.V)

    def fits(n: int) -> bool:
        return bytes_of(shape, replace(setting, mu_tok=n * batch.L_ctx)) <= has

    most = _last_that(fits, min(sequences, MOST_SEQUENCES))
    if most == 0:
        return None
    D = batch.D if batch.A is not None else 1
    each = (n for n in range(most, 0, -1) if sequences % n == 0)
    return next(n for n in each if sequences // n * batch.V % D == 0) * batch.L_ctx


def _last_that(fits: Callable[[int], bool], most: int) -> int:
    """The largest n from 1 to `most` that fits, or 0.  `fits` must be monotonic."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _remedies(asked: Question, largest: int | None) -> list[Remedy]:
    """Each way alone, those with the same bits together, more ranks, and all ways together."""
    ways = _ways(asked.shape, asked.setting, asked.batch, largest)
    same = [way for way in ways if way.same_bits]
    tried = [[way] for way in ways if way.same_bits]
    if len(same) > 1:
        tried.append(same)
    remedies = [_together(asked, few) for few in tried]
    if not any(remedy.fits for remedy in remedies):
        remedies += _more_ranks(asked, same)
    others = [[way] for way in ways if not way.same_bits]
    if len(ways) > len(same):
        others.append(ways)
    remedies += [_together(asked, few) for few in others if few]
    return [remedy for remedy in remedies if remedy.bytes < bytes_of(asked.shape, asked.setting)]


def _ways(shape: ModelShape, setting: Setting, batch: Batch, largest: int | None) -> list[Way]:
    """The ways that this setting does not use yet."""
    ways = []
    if not setting.recomputes:
        share = checkpointing_flops_per_token(shape) / flops_per_token(shape)
        price = Note("recomputation", {"share": share})
        ways.append(
            Way("activation_checkpointing", ("activation_checkpointing=block",), True, _recomputing, price)
        )
    if setting.strategy == "replicate" and setting.D > 1:
        gathered = 2 * 4 * count_parameters(shape).N_params_total
        price = Note("gathered_weights", {"bytes": gathered})
        ways.append(Way("shard", ("strategy=shard",), True, _sharding, price))
    smaller = largest or batch.L_ctx
    if smaller < setting.mu_tok:
        price = Note("smaller_micro_batches", {"smaller": smaller, "now": setting.mu_tok})
        ways.append(
            Way(
                "mu_tok",
                (f"batch.μ_tok={smaller}",),
                False,
                lambda before: replace(before, mu_tok=smaller),
                price,
            )
        )
    if setting.V > setting.D and batch.M % setting.D == 0:
        price = Note("fewer_lanes", {"D": setting.D})
        ways.append(Way("fewer_lanes", (f"batch.V={setting.D}",), False, _fewest_lanes, price))
    return ways


def _recomputing(setting: Setting) -> Setting:
    return replace(setting, recomputes=True)


def _sharding(setting: Setting) -> Setting:
    return replace(setting, strategy="shard")


def _fewest_lanes(setting: Setting) -> Setting:
    """One lane per rank."""
    return replace(setting, V=setting.D, lanes=cost_of(setting.D, setting.D))


def _together(asked: Question, ways: list[Way]) -> Remedy:
    """Several ways combined into one remedy."""
    setting = asked.setting
    for way in ways:
        setting = way.apply(setting)
    needs = bytes_of(asked.shape, setting)
    return Remedy(
        name="+".join(way.name for way in ways),
        settings=tuple(text for way in ways for text in way.settings) + _stated_A(asked, setting),
        same_bits=all(way.same_bits for way in ways),
        bytes=needs,
        fits=needs <= asked.has,
        price=tuple(way.price for way in ways),
    )


def _stated_A(asked: Question, after: Setting) -> tuple[str, ...]:
    """The setting of A that goes with a remedy, if the user gave A and it changes."""
    A = asked.batch.gb_tok // (after.mu_tok * after.D)
    return (f"batch.A={A}",) if asked.states_A and asked.batch.A != A else ()


def _more_ranks(asked: Question, same: list[Way]) -> list[Remedy]:
    """The fewest ranks on which it fits with the same bits, alone or with the ways in `same`."""
    batch, setting = asked.batch, asked.setting
    degrees = [D for D in divisors(batch.V, batch.V) if D > setting.D]
    for ways in ([], same) if same else ([],):
        for D in degrees:
            wider = asked._replace(setting=replace(setting, D=D, lanes=cost_of(setting.V, D)))
            remedy = _together(wider, ways)
            if remedy.fits:
                price = Note("more_devices", {"times": D / setting.D})
                return [
                    remedy._replace(
                        name="+".join(["D", *(way.name for way in ways)]),
                        settings=(f"batch.D={D}", *remedy.settings),
                        price=(price, *remedy.price),
                    )
                ]
    return []


def _most_layers(shape: ModelShape, setting: Setting, batch: Batch, has: int) -> int:
    """Layers that fit with one sequence per micro-batch, one lane per rank, recomputation and sharding."""
    least = replace(setting, mu_tok=batch.L_ctx)
    for way in _ways(shape, setting, batch, None):
        least = way.apply(least)
    return _last_that(lambda n: bytes_of(replace(shape, n_layers=n), least) <= has, shape.n_layers)
