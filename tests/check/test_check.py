"""`llmrun check`: what breaks the promise is found and named, and nothing else is."""

from pathlib import Path

import pytest

from check.differences_of import entries
from llmrun.check.differences import module_difference, recomputed_difference
from llmrun.check.inspected import findings_of_inspection
from llmrun.check.scratch import MICRO_BATCH_TOKENS_ON_CPU, V, scratch_of
from llmrun.config.load import load_config
from llmrun.config.resolve import MachineFacts, resolve

MODELS = Path(__file__).parent / "models"
PART = "blocks.1.part"

INSPECTED = {
    "python_random": ("no_hidden_state", PART),
    "running_mean": ("no_hidden_state", PART),
    "lazy_mask": ("no_hidden_state", PART),
    "global_list": ("no_hidden_state", PART),
    "cache_on_self": ("no_hidden_state", PART),
    "put": ("operations", PART),
    "max_unpool": ("operations", PART),
    "batch_norm": ("no_hidden_state", f"{PART}.norm"),
    "clock": ("no_hidden_state", PART),
    "urandom": ("no_hidden_state", PART),
    "unused": ("gradients", PART),
    "backward_hook": ("no_hidden_state", PART),
    "tied_later": ("no_hidden_state", "head"),
    "tied_data": ("no_hidden_state", "table"),
    "mean_loss": ("loss_is_a_sum", ""),
    "wrong_device": ("runs", PART),
    "raises": ("runs", PART),
}
"""Offenders that one process shows, with the property that they break and the module that is named."""

EXECUTED = {
    "rank_of_environment": ("ranks", PART),
    "drawn_at_import": ("two_executions", PART),
    "python_random": ("ranks", PART),
    "clock": ("two_executions", PART),
}
"""Offenders that executions show: the module is that of the first tensor that differs."""

HONEST = ["tiny", "deep", "dropped", "tied", "frozen", "rotary", "experts", "attention", "own_loss", "shared"]
QUICK = ("put", "backward_hook", "tied_data", "raises")


def assert_inspected(inspect, offender: str) -> None:
    name, module = INSPECTED[offender]
    broken = [
        each
        for each in findings_of_inspection(inspect(f"offenders.{offender}:model"), "cpu")
        if each.outcome == "no"
    ]

    assert [(each.name, each.module) for each in broken] == [(name, module)]


@pytest.mark.parametrize("offender", QUICK)
def test_an_inspection_names_the_property_and_the_module(inspect, offender):
    """Each offender breaks one property of those that one process shows, and its module is named."""
    assert_inspected(inspect, offender)


@pytest.mark.slow
@pytest.mark.parametrize("offender", sorted(set(INSPECTED) - set(QUICK)))
def test_inspections_name_the_property_and_the_module(inspect, offender):
    """The same for the other offenders."""
    assert_inspected(inspect, offender)


def test_a_refused_operation_has_a_line(inspect):
    """The operation is named with the line of the user's file, in the forward pass."""
    (refused,) = inspect("offenders.put:model").refused

    file, line = refused.place.source.rsplit(":", 1)

    assert refused.name == "aten.put_.default"
    assert file == str(MODELS / "offenders" / "put.py")
    assert ".put_(" in Path(file).read_text().splitlines()[int(line) - 1]
    assert refused.place.phase == "forward"


def test_what_only_cuda_refuses_is_a_warning(inspect):
    """On a CPU the weighted `bincount` is deterministic, so nothing is broken; it is listed with its module."""
    found = inspect("offenders.bincount:model")
    named = {each.name: each.place.module for each in found.refused_on_cuda}

    assert named["aten.bincount.default"] == PART
    assert {each.name: each.outcome for each in findings_of_inspection(found, "cpu")}[
        "operations"
    ] == "warning"


def test_a_number_drawn_at_import_is_named_where_it_is_used(checked):
    """Only two processes show it, and the first module whose tensors differ is the one that uses the number."""
    report = checked("offenders.drawn_at_import:model")

    assert (report.first.name, report.first.module, report.first.phase) == ("two_executions", PART, "forward")
    assert (report.first.micro_batch, report.first.step) == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("offender", sorted(EXECUTED))
def test_executions_name_the_module(checked, offender):
    """The property that the offender breaks has the module of its first different tensor."""
    name, module = EXECUTED[offender]
    broken = {finding.name: finding for finding in checked(f"offenders.{offender}:model").broken}

    assert broken[name].module == module
    assert broken[name].phase == "forward"


def test_an_honest_model_raises_no_alarm(checked):
    """Dropout of torch is the same in every execution."""
    report = checked("honest_models:dropped")

    assert report.broken == ()
    assert {finding.outcome for finding in report.findings} == {"yes", "warning"}
    assert report.measured.flops_per_token > 0
    assert report.measured.peak_memory_bytes > 0


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(set(HONEST) - {"dropped"}))
def test_no_honest_model_raises_an_alarm(checked, model):
    """Nothing is broken, and what is not judged is only that a model without blocks cannot recompute them."""
    report = checked(f"honest_models:{model}")

    assert report.broken == ()
    assert {each.name for each in report.findings if each.outcome == "not_judged"} <= {"recomputed"}


@pytest.mark.slow
def test_the_built_in_model_raises_no_alarm(checked_built_in):
    """Every property of the built-in model holds, with nothing left unjudged."""
    report = checked_built_in()

    assert {finding.outcome for finding in report.findings} == {"yes"}


@pytest.mark.slow
@pytest.mark.parametrize("example", ["gpt2", "llama", "qwen3", "mamba"])
def test_models_that_nobody_here_wrote_raise_no_alarm(checked_example, example):
    """The classes of `transformers` keep the promise in every execution, sharded and recomputed too."""
    pytest.importorskip("transformers")
    report = checked_example(example)

    assert report.broken == ()
    assert {each.outcome for each in report.findings} <= {"yes", "warning"}


def test_the_first_difference_is_that_of_the_reference_order():
    """Ranks run micro-batches side by side; the order of the reference decides which difference is first."""
    one = entries("0 forward a 1", "0 backward a 2", "1 forward a 3", "1 backward a 4")
    other = entries("1 forward a 9", "1 backward a 9", "0 forward a 1", "0 backward a 8")
    found = module_difference(one, other)

    assert (found.micro_batch, found.phase, found.module) == (0, "backward", "a")
    assert module_difference(one, [*one[2:], *one[:2]]) is None


def test_a_missing_forward_tensor_is_a_difference():
    """A module that runs in one execution only differs; a node that only one backward graph has does not."""
    one = entries("0 forward a 1", "0 forward b 2", "0 backward b 3")

    assert module_difference(one, entries("0 forward a 1", "0 backward b 3")).module == "b"
    assert module_difference(one, entries("0 forward a 1", "0 forward b 2")) is None


def test_a_recomputed_tensor_must_be_one_of_the_forward_pass():
    """A module that runs twice in a pass may be recomputed with either of its results."""
    forward = ["0 forward a 1", "0 forward a 2"]

    assert recomputed_difference(entries(*forward, "0 recompute a 2", "0 recompute a 1")) is None
    assert recomputed_difference(entries(*forward, "0 recompute a 3")).phase == "recompute"


def test_the_scratch_batch_is_small_and_says_so(tmp_path):
    """Four lanes, a micro-batch of at most 512 tokens or one sequence, and each changed number is named."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "model: {vocab_size: 300}\nbatch: {GB_tok: 64Ki, μ_tok: 8Ki, L_ctx: 256}\nhardware: {device: cpu}\n"
    )
    resolved = resolve(load_config(path), None, MachineFacts(0))
    scratch = scratch_of(resolved, 2)
    batch = scratch.resolved.batch

    assert (batch.V, batch.D, batch.steps, batch.L_ctx) == (V, 1, 2, 256)
    assert batch.mu_tok == MICRO_BATCH_TOKENS_ON_CPU
    assert [change.split()[0] for change in scratch.changes] == [
        "T_tokens",
        "batch.GB_tok",
        "batch.μ_tok",
        "batch.V",
    ]
    assert scratch.resolved.config.optimizer == resolved.config.optimizer
