"""What a plan says of Muon: FLOPs as torch counts them, moments, checkpoint, time."""

from pathlib import Path

import pytest

from llmrun.config.load import load_config
from llmrun.config.resolve import MachineFacts, resolve
from llmrun.core.muon_flops import newton_schulz_flops
from llmrun.plan.muon import largest_moments
from llmrun.plan.plan import Plan, make_plan
from llmrun.plan.render.explain import explanation
from llmrun.plan.render.json import as_json
from llmrun.plan.render.language import chinese
from llmrun.plan.render.summary import summary

CONFIG = """
T_tokens: 1G
model: {preset: gpt2-small}
batch: {GB_tok: 512Ki, μ_tok: 16Ki, D: 8}
hardware: {accelerator: H100-SXM}
"""


def plan(tmp_path: Path, *sets: str) -> Plan:
    path = tmp_path / "x.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return make_plan(resolve(load_config(path, sets), None, MachineFacts(8)))


@pytest.mark.parametrize("shape", [(64, 160), (160, 64), (96, 96)])
def test_flops_are_those_that_torch_counts(shape: tuple[int, int]) -> None:
    """The formula equals torch's count of the products that are executed."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from llmrun.core.muon import orthogonalised

    with FlopCounterMode(display=False) as counter:
        orthogonalised(torch.randn(shape).bfloat16(), 5)
    assert newton_schulz_flops(shape, 5) == counter.get_total_flops()


def test_a_plan_with_muon(tmp_path: Path) -> None:
    """One moment less for the matrices of blocks; FLOPs by hand; the time grows by the busiest rank's share."""
    adamw, muon = plan(tmp_path), plan(tmp_path, "optimizer.name=muon")
    d, layers = 768, 12
    matrices = layers * 12 * d * d
    assert muon.muon is not None
    assert muon.muon.N_params == matrices
    each = layers * (4 * newton_schulz_flops((d, d), 5) + 2 * newton_schulz_flops((d, 4 * d), 5))
    figures = as_json(muon)
    assert figures["FLOPs_muon"] == each * muon.batch.steps
    assert figures["checkpoint_bytes"] == as_json(adamw)["checkpoint_bytes"] - 4 * matrices
    assert sum(figures["checkpoint_parts_bytes"].values()) == figures["checkpoint_bytes"]
    assert (as_json(adamw)["FLOPs_muon"], as_json(adamw)["N_params_muon"], adamw.muon) == (0, 0, None)
    assert figures["FLOPs"] == as_json(adamw)["FLOPs"]

    assert muon.costs.time_hours is not None
    assert adamw.costs.time_hours is not None
    added = muon.muon.busiest_FLOPs * muon.batch.steps / (989.5e12 * 0.4) / 3600
    assert muon.costs.time_hours - adamw.costs.time_hours == pytest.approx(added, rel=1e-6)
    assert muon.muon.FLOPs / 8 <= muon.muon.busiest_FLOPs <= muon.muon.FLOPs / 7


def test_moments_of_the_largest_rank() -> None:
    """Cut flat, AdamW's parameters come first; cut by rows, all ranks have the same; without Muon 8 bytes a parameter."""
    assert largest_moments(100, 0, 4, by_rows=False) == largest_moments(100, 0, 4, by_rows=True) == 200
    assert largest_moments(100, 80, 1, by_rows=False) == 8 * 20 + 4 * 80
    assert largest_moments(100, 80, 4, by_rows=False) == 8 * 20 + 4 * 5
    assert largest_moments(100, 80, 4, by_rows=True) == (8 * 20 + 4 * 80) // 4


def test_screens_show_muon(tmp_path: Path) -> None:
    """Summary and explanation, in both languages, have Muon's figures; without Muon none of them does."""
    muon, adamw = plan(tmp_path, "optimizer.name=muon"), plan(tmp_path)
    for screen in (summary(muon), explanation(muon), summary(muon, chinese), explanation(muon, chinese)):
        assert "Muon" in screen
    assert max(map(len, summary(muon).splitlines())) <= 80
    assert "Muon" not in summary(adamw) + explanation(adamw)
