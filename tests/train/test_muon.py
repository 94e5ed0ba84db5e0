"""Muon: the updates of `torch.optim.Muon`, and the same bits on any number of ranks and under both strategies."""

from typing import Any

import pytest
import torch

from llmrun.config.resolve import DatasetFacts, MachineFacts, resolve, training_spec
from llmrun.core.combined_digest import combine_digests
from llmrun.core.lanes import lanes_of_rank
from llmrun.core.muon import orthogonalised
from llmrun.core.parallel.select import strategy_of
from llmrun.core.reduce.layout import Slot
from llmrun.core.reduce.owners import owners_of
from llmrun.core.schedule import learning_rate
from llmrun.core.state import by_name as digests_by_name
from llmrun.core.state import initial_state, slots_by_suffix, whole_digests
from llmrun.core.training_spec import TrainingSpec
from llmrun.errors import RefusedError
from llmrun.storage.checkpoint.reader import open_checkpoint
from warm.bits import assert_equal_runs, tensors_of
from warm.driver import STEPS
from warm.pool import PoolBackend, dying

MUON = "optimizer.name=muon"
GROUPS = 'optimizer.groups=[{match: "*.up_proj.weight", lr_scale: 0.5}, {match: "*.o_proj.weight", optimizer: adamw}, {match: "*norm*", weight_decay: 0.02}]'


SHORT = ["T_tokens=4Ki", "schedule.warmup_tokens=1Ki", "batch.V=4"]


@pytest.mark.parametrize(
    "sets",
    [["precision=fp32", GROUPS], pytest.param(["precision=bf16"], marks=pytest.mark.slow)],
    ids=["groups", "bf16"],
)
def test_a_walk_over_D_and_strategies_has_the_bits_of_one_rank(driver, server, sets):
    """Sharded on 3 ranks and killed, replicated on 4 = V, sharded on 2: the chain and the tensors of one rank."""
    pool = PoolBackend(server)
    driver.train(pool, "one", MUON, *SHORT, *sets)
    sharded = ["strategy=shard", "batch.D=3", "batch.uneven=allow", "checkpoint.every_steps=2"]
    driver.train(dying(server, 3), "walk", MUON, *SHORT, *sets, *sharded)
    driver.resume(pool, "walk", "strategy=replicate", D=4, until=5)
    driver.resume(pool, "walk", "strategy=shard", D=2)
    assert_equal_runs(driver.run("one"), driver.run("walk"), 8)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["replicate", "shard"])
def test_every_D_from_the_start(driver, server, strategy):
    """D = 1 … 8 = V under each strategy, from the first step to the last: one chain, one set of tensors."""
    pool = PoolBackend(server)
    few = ["T_tokens=2Ki", "schedule.warmup_tokens=1Ki", "eval.every_steps=null", GROUPS]
    driver.train(pool, "one", MUON, *few)
    for D in range(2, 9):
        driver.train(pool, f"D-{D}", MUON, *few, f"strategy={strategy}", f"batch.D={D}", "batch.uneven=allow")
        assert_equal_runs(driver.run("one"), driver.run(f"D-{D}"), 4)


def test_each_parameter_keeps_the_state_of_its_optimizer(driver, server):
    """A checkpoint holds one momentum for a matrix of Muon, two moments for every other parameter, and no more."""
    driver.train(PoolBackend(server), "one", MUON, GROUPS, *SHORT, "T_tokens=1Ki", "batch.D=2")
    tensors = open_checkpoint(driver.run("one").checkpoints / "step-00000002").manifest.tensors
    names = {name for name, entry in tensors.items() if entry.kind == "parameter"}
    by_muon = {n for n in names if "_proj.weight" in n and "o_proj" not in n}
    assert len(by_muon) == 12
    assert tensors.keys() - names == {f"{n}.momentum_buffer" for n in by_muon} | {
        f"{n}.{moment}" for n in names - by_muon for moment in ("exp_avg", "exp_avg_sq")
    }


def test_a_state_of_another_optimizer_is_refused(driver, pool):
    """AdamW's state goes on neither under Muon nor with a group moved to it, whatever is allowed; nothing is changed."""
    driver.train(pool, "one", *SHORT, "T_tokens=1Ki", until=1)
    before = driver.run("one").record_file.read_bytes()
    with pytest.raises(RefusedError) as caught:
        driver.resume(pool, "one", MUON, allow=("config",))
    assert len(caught.value.caused_by) == 5
    assert any("llmrun migrate" in str(hint) for hint in caught.value.hints)
    assert driver.run("one").record_file.read_bytes() == before


def test_groups_that_say_what_holds_anyway_change_no_bit(driver, server):
    """AdamW with its default decay written out as groups has the weights of AdamW without groups."""
    pool = PoolBackend(server)
    written = 'optimizer.groups=[{match: "*norm.weight", weight_decay: 0}, {match: "*", weight_decay: 0.1}]'
    driver.train(pool, "plain")
    driver.train(pool, "written", written)
    assert tensors_of(driver.run("plain"), STEPS) == tensors_of(driver.run("written"), STEPS)


def spec_of(**optimizer: Any) -> TrainingSpec:
    """A small model with matrices of several shapes, on one rank."""
    from llmrun.config.load import LoadedConfig
    from llmrun.config.schema import Config

    config = Config.model_validate(
        {
            "T_tokens": 4096,
            "model": {
                "n_layers": 2,
                "d_model": 64,
                "n_heads": 4,
                "n_kv_heads": 2,
                "d_ff": 96,
                "vocab_size": 256,
            },
            "batch": {"gb_tok": 128, "mu_tok": 128, "L_ctx": 32, "D": 1},
            "schedule": {"warmup_tokens": 512},
            "precision": "fp32",
            "hardware": {"device": "cpu"},
            "optimizer": {"name": "muon", "lr": 1e-3, **optimizer},
        }
    )
    dataset = DatasetFacts(vocab_size=256, train_tokens=10**6, val_tokens=10**5)
    return training_spec(resolve(LoadedConfig(config, "x.yaml"), dataset, MachineFacts(0)))


@pytest.mark.parametrize(
    "muon",
    [
        {},
        {"nesterov": False, "momentum": 0.8, "weight_decay": 0.0},
        {"adjust_lr_fn": "match_rms_adamw", "ns_steps": 3},
    ],
    ids=["defaults", "momentum", "match_rms_adamw"],
)
def test_a_trajectory_is_that_of_torch(muon):
    """Twelve steps of a model, each side on gradients of its own weights: bitwise those of torch.optim.Muon and AdamW."""
    spec = spec_of(muon=muon)
    ours = initial_state(spec, 0, torch.device("cpu"), n_windows=100)
    theirs = strategy_of(spec, 0, torch.device("cpu")).model
    named = dict(theirs.named_parameters())
    by_muon = [p for n, p in named.items() if n.endswith("_proj.weight")]
    others = [p for n, p in named.items() if not n.endswith("_proj.weight")]
    settings = {**vars(spec.optimizer.muon)}
    optimizers = [
        torch.optim.Muon(by_muon, **settings),
        torch.optim.AdamW(
            [{"params": [p], "weight_decay": 0.1 if p.ndim > 1 else 0.0} for p in others],
            betas=(0.9, 0.95),
            eps=1e-8,
            fused=True,
        ),
    ]
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 13):
        tokens = torch.randint(256, (4, 33), generator=generator)
        (lane,) = lanes_of_rank(1, 1, 0)
        ours.strategy.begin_lane(lane)
        ours.strategy.before_pass(ends_lane=True, ends_step=True)
        loss, n_targets = ours.strategy.model(tokens)
        loss.backward()
        ours.strategy.end_lane(lane)
        gradient = ours.strategy.finish().mul_(1.0 / n_targets)
        ours.optimizer.update(
            gradient, lambda peak, s=step: learning_rate(s, spec.batch, spec.schedule, peak)
        )

        theirs.zero_grad()
        theirs(tokens)[0].backward()
        for parameter in named.values():
            parameter.grad.mul_(1.0 / n_targets)
        for optimizer, peak in zip(optimizers, (settings["lr"], 1e-3), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, spec.batch, spec.schedule, peak)
            optimizer.step()
    for name, parameter in ours.strategy.model.named_parameters():
        assert torch.equal(parameter, named[name]), name


NUMBERS = [
    {"muon": {"lr": 0.01}},
    {"muon": {"momentum": 0.9}},
    {"muon": {"nesterov": False}},
    {"muon": {"ns_steps": 4}},
    {"muon": {"weight_decay": 0.2}},
    {"muon": {"adjust_lr_fn": "match_rms_adamw", "lr": 0.02}},
    {"groups": [{"match": "*", "lr_scale": 0.5}]},
    {"groups": [{"match": "*", "weight_decay": 0.0}]},
    {"groups": [{"match": "*.q_proj.weight", "optimizer": "adamw"}]},
    {"groups": [{"match": "*.q_proj.weight", "lr_scale": 0.5}]},
    {
        "groups": [
            {"match": "*.q_proj.weight", "lr_scale": 0.5},
            {"match": "*_proj.weight", "weight_decay": 0.0},
        ]
    },
    {"groups": [{"match": "*_proj.weight", "weight_decay": 0.0}]},
]


def test_each_setting_changes_the_bits():
    """Every setting of Muon and of groups reaches the update: no two of these give the same weights."""
    found = set()
    for settings in [{}, *NUMBERS]:
        state = initial_state(spec_of(**settings), 0, torch.device("cpu"), n_windows=100)
        generator = torch.Generator().manual_seed(0)
        by_name = {
            slot.name: torch.randn(slot.numel, generator=generator)
            for slot in sorted(state.strategy.slots, key=lambda slot: slot.name)
        }
        for _ in range(2):
            gradient = torch.zeros_like(state.strategy.weights)
            for slot in state.strategy.slots:
                gradient[slot.start : slot.start + slot.numel] = by_name[slot.name]
            state.optimizer.update(gradient, lambda peak: peak)
        digests, _ = whole_digests(state, {"": state.shards[""]})
        found.add(combine_digests(digests_by_name(slots_by_suffix(state), digests)))
    assert len(found) == len(NUMBERS) + 1


def test_where_a_piece_is_cut_changes_no_bit():
    """Momentum, direction and update of elements, as Muon computes them: the same in any piece, whatever its ends."""
    generator = torch.Generator().manual_seed(0)
    weight, gradient, momentum = (torch.randn(2000, generator=generator) for _ in range(3))

    def update(part: slice) -> torch.Tensor:
        own, change, kept = weight[part].clone(), gradient[part].clone(), momentum[part].clone()
        kept.lerp_(change, 1 - 0.95)
        direction = change.lerp_(kept, 0.95).bfloat16()
        own.mul_(1 - 0.02 * 0.1).add_(direction, alpha=-0.0213)
        return torch.cat([own, kept, direction.float()]).view(3, -1)

    whole = update(slice(0, 2000))
    for start, count in [(0, 1), (64, 63), (128, 999), (192, 1000), (7, 130), (1001, 33)]:
        assert torch.equal(update(slice(start, start + count)), whole[:, start : start + count])


def test_singular_values_come_near_one():
    """The direction has singular values of about 0.5 … 1.5 for tall and wide matrices; of zeros it is zero."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((64, 160), (160, 64), (48, 256)):
        matrix = torch.randn(shape, generator=generator).bfloat16()
        values = torch.linalg.svdvals(orthogonalised(matrix, 5).float())
        assert 0.3 < values.min() < values.max() < 1.5
    assert not orthogonalised(torch.zeros(8, 4, dtype=torch.bfloat16), 5).any()


def test_owners_share_the_work():
    """Each matrix has one owner; the busiest rank has at most 4/3 of what is possible; every rank finds the same."""
    slots = [Slot(f"m{i}", shape, 0) for i, shape in enumerate([(8, 8), (16, 8), (8, 16), (32, 8)] * 6)]
    costs = {slot.name: slot.numel for slot in slots}
    for D in range(1, 9):
        owners = owners_of(costs, D)
        assert owners.keys() == costs.keys()
        assert owners == owners_of(dict(costs), D)
        work = [sum(costs[name] for name, owner in owners.items() if owner == rank) for rank in range(D)]
        assert max(work) <= 4 / 3 * max(sum(costs.values()) / D, *costs.values())
