"""Settings that change no bit: D, loader workers, activation checkpointing, saving, evaluation, resuming."""

import random

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from warm.bits import assert_equal_runs, chain_of, tensors_of
from warm.driver import STEPS
from warm.pool import PoolBackend, dying

OPERATIONAL = {
    "data.num_workers": st.sampled_from([0, 1, 3]),
    "data.verify": st.sampled_from(["always", "never"]),
    "data.order_file": st.sampled_from(["auto", "always", "never"]),
    "eval.every_steps": st.sampled_from(["null", 1, 3, 100]),
    "eval.windows": st.integers(1, 20),
    "checkpoint.every_minutes": st.sampled_from(["null", 1, 240]),
    "checkpoint.keep_last": st.integers(1, 3),
    "checkpoint.keep_best": st.booleans(),
    "checkpoint.on_disk_full": st.sampled_from(["continue", "stop"]),
    "activation_checkpointing": st.sampled_from(["none", "block"]),
    "reproducibility.compare_with": st.sampled_from(["auto", "none"]),
    "reproducibility.on_difference": st.sampled_from(["warn", "stop"]),
    "hardware.assumed_mfu": st.floats(0.01, 1),
    "hardware.accelerator": st.sampled_from(["null", "H100-SXM", "A100-80G-SXM"]),
    "hardware.PUE": st.floats(1, 2),
    "hardware.yuan_per_kWh": st.floats(0, 9),
    "hardware.yuan_per_GPU_hour": st.floats(0, 99),
}

SAVING = [("null", "null"), (1, 3), (4, "null"), (100, "null"), (3, 6)]


def drawn(data) -> list[str]:
    """Random operational settings, with any D from 1 to V that divides M."""
    chosen = {key: data.draw(values, label=key) for key, values in OPERATIONAL.items()}
    every, keep_every = data.draw(st.sampled_from(SAVING), label="every_steps, keep_every_steps")
    chosen |= {"checkpoint.every_steps": every, "checkpoint.keep_every_steps": keep_every}
    chosen["batch.D"] = data.draw(st.sampled_from([1, 2, 4, 8]), label="D")
    return [
        f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in chosen.items()
    ]


def check_operational(driver, server, data):
    """One example: kill, resume with other settings at another D, compare with the plain run."""
    name = f"example-{len(list(driver.directory.glob('runs/example-*')))}"
    precision = f"precision={data.draw(st.sampled_from(['fp32', 'bf16']), label='precision')}"
    plain = f"plain-{precision[-4:]}"
    if not driver.run(plain).is_run:
        driver.train(PoolBackend(server), plain, precision)
    kill_at = data.draw(st.integers(1, STEPS - 1), label="kill at")
    driver.train(dying(server, kill_at), name, precision, *drawn(data))
    ended = driver.resume(
        PoolBackend(server),
        name,
        *(s for s in drawn(data) if "batch.D" not in s),
        D=data.draw(st.integers(1, 8), label="D then"),
    )
    assert ended.end.why == "finished"
    assert_equal_runs(driver.run(plain), driver.run(name), STEPS)


@pytest.mark.parametrize(
    "examples", [3, pytest.param(40, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]
)
def test_operational_settings_change_no_bit(driver, server, examples):
    """Random operational settings, killed at random, resumed under others on any D from 1 to 8."""

    # Shrinking would train for minutes: the failing example is enough.
    @settings(max_examples=examples, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.data())
    def run(data):
        check_operational(driver, server, data)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_D_has_the_same_bits(driver, server, precision):
    """D = 1, 2, 4, 8 from the start and 3, 5, 6, 7 by resuming: one chain, one set of tensors."""
    pool = PoolBackend(server)
    setting = f"precision={precision}"
    driver.train(pool, "one", setting)
    for D in (2, 4, 8):
        driver.train(pool, f"D-{D}", setting, f"batch.D={D}")
        assert_equal_runs(driver.run("one"), driver.run(f"D-{D}"), STEPS)
    for D in (3, 5, 6, 7):
        driver.train(pool, f"uneven-{D}", setting, until=5)
        driver.resume(pool, f"uneven-{D}", D=D)
        assert_equal_runs(driver.run("one"), driver.run(f"uneven-{D}"), STEPS)


@pytest.mark.slow
def test_random_walk_of_D(driver, server):
    """300 steps in which D changes at random 30 times, and the strategy with it: one chain."""
    pool = PoolBackend(server)
    steps = "T_tokens=150Ki"
    driver.train(pool, "one", steps)
    walk = random.Random(11)
    stops = [*sorted(walk.sample(range(1, 300), 30)), 300]
    driver.train(pool, "walk", steps, until=stops[0])
    D = 1
    for until in stops[1:]:
        D = walk.choice([other for other in range(1, 9) if other != D])
        driver.resume(pool, "walk", f"strategy={walk.choice(['replicate', 'shard'])}", D=D, until=until)
    assert chain_of(driver.run("one")) == chain_of(driver.run("walk"))
    assert tensors_of(driver.run("one"), 300) == tensors_of(driver.run("walk"), 300)


SHAPES = [
    [
        "model.tie_embeddings=false",
        "model.mlp=gelu",
        "model.norm=layernorm",
        "model.position=learned",
        "model.bias=true",
    ],
    ["model.position=alibi", "model.qk_norm=true", "model.qkv_bias=true", "optimizer.implementation=foreach"],
    ["batch.V=5", "batch.GB_tok=640", "T_tokens=6400", "optimizer.grad_clip=0.1"],
    ["batch.V=2", "batch.D=2", "schedule.name=linear", "optimizer.grad_clip=null"],
]


@pytest.mark.parametrize("sets", SHAPES, ids=lambda sets: sets[0])
def test_other_models_and_batches(driver, server, sets):
    """Other architectures, optimizers and numbers of lanes keep their bits on another D."""
    pool = PoolBackend(server)
    V = 5 if "batch.V=5" in sets else 2
    rest = [s for s in sets if not s.startswith("batch.D")]
    ended = driver.train(pool, "one", *rest)
    driver.train(pool, "shared", *rest, until=3)
    driver.resume(pool, "shared", D=V)
    assert_equal_runs(driver.run("one"), driver.run("shared"), ended.step)
