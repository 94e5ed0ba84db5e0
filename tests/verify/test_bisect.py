"""`llmrun bisect`: the first module that differs, in real executions."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from llmrun.errors import DamagedError, InputError
from llmrun.launch.torchrun import TorchrunBackend
from llmrun.run.trace import read_trace
from llmrun.verify.replay.bisect import bisect_run, bisect_runs
from llmrun.verify.replay.execute import Executor
from llmrun.verify.replay.render import lines_of_bisection
from warm.driver import Driver, Silent
from warm.pool import PoolBackend

DOWN = "model.layers.1.mlp.down_proj"
KEEP = "checkpoint.keep_last=10"
UNTIL = 8


@pytest.fixture(scope="module")
def place(server, dataset, tmp_path_factory):
    """Eight steps of a sound run, saved at steps 5 and 8."""
    directory = tmp_path_factory.mktemp("bisected")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        driver = Driver(directory, dataset)
        driver.train(PoolBackend(server), "sound", KEEP, until=UNTIL)
        yield driver


def executor_in(tmp_path, backend) -> Executor:
    scratch = tmp_path / f"scratch-{sum(1 for _ in tmp_path.iterdir())}"
    scratch.mkdir()
    return Executor(backend, Silent(), scratch)


def once(server, tmp_path, start: int, mutation: str, **arguments) -> PoolBackend:
    """Workers of which only the `start`th one has the fault."""
    return PoolBackend(
        server, "in_start", start=start, directory=str(tmp_path / "starts"), then=mutation, **arguments
    )


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("model.embed_tokens", 0),
        pytest.param("model.layers.0.self_attn.q_proj", 3, marks=pytest.mark.slow),
        (DOWN, 7),
    ],
)
def test_one_ulp_in_one_output_is_found(place, server, tmp_path, module, number):
    """In the second execution one element of one module's output is the float next to it, in one micro-batch."""
    faulty = once(server, tmp_path, 2, "perturb_output", step=6, module=module, number=number)
    report = bisect_run(place.run("sound").path, 5, 1, executor_in(tmp_path, faulty))
    found = report.bisection

    assert (found.entry.module, found.entry.what) == (module, "output")
    assert (found.entry.phase, found.entry.micro_batch, found.entry.step) == ("forward", number, 6)
    assert (found.distance.n_differing, found.distance.ulps_max) == (1, 1)
    assert found.recorded["first"] is None
    second = found.recorded["second"]  # an ulp may die out before it reaches a sum
    assert report.verdict.finding.quantity == ("loss" if second is None else second.quantity)
    assert not found.is_nondeterministic
    assert report.verdict.finding.step == 6


@pytest.mark.parametrize(
    "module", [DOWN, pytest.param("model.layers.0.input_layernorm", marks=pytest.mark.slow)]
)
def test_one_ulp_in_one_gradient_is_found(place, server, tmp_path, module):
    """The gradient that enters a module's backward pass: the module is named, and the function that handed it on."""
    faulty = once(server, tmp_path, 2, "perturb_backward", step=6, module=module)
    report = bisect_run(place.run("sound").path, 5, 1, executor_in(tmp_path, faulty))
    entry = report.bisection.entry

    assert (entry.module, entry.phase, entry.micro_batch) == (module, "backward", 0)
    assert entry.what.startswith("gradient ")
    assert report.verdict.finding.quantity == "gradients"


def test_what_a_module_does_outside_its_children_is_its_own(place, server, tmp_path):
    """Rotation and attention lie between projections: what enters `o_proj` was made by `self_attn` itself."""
    faulty = once(server, tmp_path, 2, "perturb_attention", step=6)
    report = bisect_run(place.run("sound").path, 5, 1, executor_in(tmp_path, faulty))
    entry = report.bisection.entry

    assert (entry.module, entry.what) == ("model.layers.0.self_attn", "input of o_proj")


def test_its_backward_pass_is_its_own_too(place, server, tmp_path):
    """The gradient that enters the attention of `self_attn` is handed on wrongly by a node that its own code made."""
    faulty = once(server, tmp_path, 2, "perturb_attention", step=6, gradient=True)
    report = bisect_run(place.run("sound").path, 5, 1, executor_in(tmp_path, faulty))
    entry = report.bisection.entry

    assert (entry.module, entry.phase) == ("model.layers.0.self_attn", "backward")


def test_a_sound_step_is_equal_in_every_tensor_and_as_recorded(place, pool, tmp_path):
    """So hooks change nothing: the traced steps give the records of the run."""
    report = bisect_run(place.run("sound").path, 6, 2, executor_in(tmp_path, pool))
    found = report.bisection

    assert report.verdict.equal
    assert (list(found.steps), found.entry, found.recorded) == ([7, 8], None, {"first": None, "second": None})
    assert found.n_tensors > 2 * 8 * 100
    assert report.conclusion == "equal"
    assert lines_of_bisection(report)[-1].tone == "good"


def test_a_kernel_that_never_repeats_is_told_as_such(place, server, tmp_path):
    """Second and third execution differ from the first."""
    twice = PoolBackend(
        server,
        "from_start",
        start=2,
        directory=str(tmp_path / "starts"),
        then="perturb_output",
        step=6,
        module=DOWN,
    )
    report = bisect_run(place.run("sound").path, 5, 1, executor_in(tmp_path, twice))

    assert (report.bisection.is_nondeterministic, report.bisection.entry.module) == (True, DOWN)
    assert report.conclusion == "nondeterministic"


def test_a_fault_that_does_not_come_again_is_not_the_settings(place, server, pool, tmp_path):
    """A and B have one fingerprint; B had a fault in one layer at step 7, which both executions lack."""
    place.train(
        PoolBackend(server, "perturb_output", step=7, module=DOWN, number=2), "faulty", KEEP, until=UNTIL
    )
    executor = executor_in(tmp_path, pool)
    report = bisect_runs(place.run("sound").path, place.run("faulty").path, executor)
    found = report.bisection

    assert (found.entry, found.recorded["A"], found.recorded["B"].step) == (None, None, 7)
    assert report.conclusion == "not_reproduced"
    assert list(found.not_reproduced) == ["B"]
    document = report.as_json()["bisect"]
    assert (document["module"], document["as_recorded"]) == (None, {"A": True, "B": False})


def test_nothing_is_bisected_where_no_module_can_be_the_cause(place, server, pool, tmp_path):
    """Equal runs, other data, a wrong learning rate: said, with nothing executed."""
    place.train(PoolBackend(server, "skip_sample", step=3), "skipped", until=4)
    place.train(PoolBackend(server, "late_learning_rate", step=3), "late", until=4)
    executor = executor_in(tmp_path, pool)
    sound = place.run("sound").path
    reports = [bisect_runs(sound, place.run(name).path, executor) for name in ("sound", "skipped", "late")]

    assert [report.conclusion for report in reports] == ["runs_equal", "no_module", "no_module"]
    assert [report.bisection for report in reports] == [None] * 3
    assert [report.verdict.finding and report.verdict.finding.quantity for report in reports] == [
        None,
        "data",
        "optimizer",
    ]
    assert list(executor.scratch.iterdir()) == []


def test_steps_that_do_not_lead_there_are_told(place, server, tmp_path):
    """The state before step 8 is reached from step 5; a fault at step 6 ends it."""
    faulty = PoolBackend(server, "flip_weight_bit", step=6)
    with pytest.raises(DamagedError, match="step 7 differs in loss"):
        bisect_run(place.run("sound").path, 7, 1, executor_in(tmp_path, faulty))


def test_a_step_beyond_the_ledger_is_refused(place, pool, tmp_path):
    """In the user's numbers."""
    with pytest.raises(InputError, match="--from must be less than 8, got 8"):
        bisect_run(place.run("sound").path, 8, 1, executor_in(tmp_path, pool))


WIDE = (
    "model.n_layers=1", "model.d_model=256", "model.norm=layernorm", "model.n_heads=4", "model.n_kv_heads=4", "model.d_ff=256",
    "model.dropout=0", "batch.GB_tok=2Ki", "batch.μ_tok=1Ki", "batch.L_ctx=128", "batch.V=2", "eval.every_steps=null",
    "T_tokens=8Ki", "schedule.warmup_tokens=2Ki",
)  # fmt: skip

BY_HAND = """
import hashlib, json, sys
from pathlib import Path
import torch
from llmrun.storage.checkpoint.reader import open_checkpoint
from llmrun.config.load import load_config
from llmrun.data.manifest import read_manifest
from llmrun.core.order import Order
from llmrun.data.shard_reader import open_split
from llmrun.config.model_shape import shape_of
from llmrun.core.model.spec import TransformerSpec
from llmrun.core.model.build import build, initial_values

torch.set_num_threads(int(sys.argv[2]))
step, checkpoint = int(sys.argv[3]), sys.argv[4]
config = load_config(Path(sys.argv[1])).config
batch, data = config.batch, Path(config.data.path)
split = open_split(data, read_manifest(data), "train", batch.L_ctx, verify=False)
n = batch.mu_tok // batch.L_ctx
windows = Order(config.seed, split.n_windows).entries((step - 1) * (batch.gb_tok // batch.mu_tok) * n, n)
tokens = torch.stack([torch.from_numpy(split.window(int(w))) for w in windows]).long()
spec = TransformerSpec(shape_of(config.model, batch.L_ctx))
fill = initial_values(spec, config.seed)
if checkpoint:
    saved = open_checkpoint(Path(checkpoint))
    fill = lambda name, parameter: parameter.data.copy_(torch.from_numpy(saved.read_all(name).copy()))
model = build(spec, lambda _, size: torch.empty(size), fill)
found = []
def digest(tensor):
    return hashlib.sha256(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()).hexdigest()
def keep(name, tensor):
    found.append([name, digest(tensor)])
for name, module in model.named_modules():
    module.register_forward_hook(lambda m, i, o, name=name: keep(name, o[0] if isinstance(o, tuple) else o))
model(tokens)[0].backward()
gradients = [[name, digest(parameter.grad)] for name, parameter in reversed(list(model.named_parameters()))]
print(json.dumps([found, gradients]))
"""


def by_hand(config, threads: int, step: int = 1, checkpoint: object = "", **variables):
    """Names and hashes, for micro-batch 0 of a step, with nothing of the trace.

    Of all modules' outputs in their order, and of all parameters' gradients, the last parameter's first.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-c", BY_HAND, str(config), str(threads), str(step), str(checkpoint)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    outputs, gradients = json.loads(done.stdout)
    return outputs, gradients


def first_by_hand(one, other) -> str | None:
    """The first name with another hash."""
    return next((name for (name, a), (_, b) in zip(one, other, strict=True) if a != b), None)


@pytest.mark.slow
def test_other_threads_are_found_in_the_module_that_they_change(place, pool, tmp_path):
    """One thread and two: the module that is named is the first one that differs in a direct computation."""
    place.train(pool, "one", *WIDE, until=1)
    place.train(pool, "two", *WIDE, "hardware.threads_per_rank=2", until=1)
    executor = executor_in(tmp_path, pool)
    report = bisect_runs(place.run("one").path, place.run("two").path, executor)
    config = place.run("one").config_file
    found = report.bisection

    assert (report.verdict.finding.step, found.entry.step, found.entry.micro_batch) == (1, 1, 0)
    assert found.recorded == {"A": None, "B": None}
    assert report.conclusion == "settings"
    assert "hardware.threads_per_rank: 1 -> 2" in [str(change) for change in report.settings]
    one, two = by_hand(config, 1), by_hand(config, 2)
    assert first_by_hand(one[0], two[0]) is None
    assert (found.entry.phase, found.entry.what) == ("backward", "gradient 1 of NativeLayerNormBackward0")
    assert f"{found.entry.module}.weight" == first_by_hand(one[1], two[1]) == "model.norm.weight"
    entries = read_trace(executor.scratch / "segment-001" / "trace.jsonl")
    outputs = [e.module for e in entries if (e.micro_batch, e.phase, e.what) == (0, "forward", "output")]
    assert outputs == [name for name, _ in one[0]]


@pytest.mark.slow
def test_another_instruction_set_is_found_in_the_module_that_it_changes(place, tmp_path, monkeypatch):
    """Real torchrun workers, ATEN_CPU_CAPABILITY=default against what the processor has."""
    backend = TorchrunBackend()
    place.train(backend, "native", *WIDE, KEEP, until=1)
    shutil.copytree(place.run("native").path, place.run("plain").path)
    place.resume(backend, "native", until=2)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    place.resume(backend, "plain", until=2, allow=["environment"])
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    report = bisect_runs(place.run("native").path, place.run("plain").path, executor_in(tmp_path, backend))
    config = place.run("native").config_file
    state = place.run("native").checkpoints / "step-00000001"
    found = report.bisection
    native, _ = by_hand(config, 1, 2, state)
    plain, _ = by_hand(config, 1, 2, state, ATEN_CPU_CAPABILITY="default")

    assert found.recorded == {"A": None, "B": None}
    assert "variables.ATEN_CPU_CAPABILITY: (absent) -> default" in [str(c) for c in report.settings]
    assert (found.entry.step, found.entry.phase, found.entry.what) == (2, "forward", "output")
    assert found.entry.module == first_by_hand(native, plain)
