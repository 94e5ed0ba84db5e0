"""The seeded faults: what is done to a run, and what `llmrun verify` must then say, worked out by hand.

Undisturbed: 16 steps of 8 micro-batches of 2 sequences, warm-up over steps 1 to 4, then cosine; checkpoints after
steps 5, 10, 15, 16; the optimizer's state is digested at step 10, single tensors at steps 0 and 100.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults import disk
from faults.bench import LONG, LONG_STEPS, Bench, other_instruction_set

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
K_PROJ, V_PROJ = (f"model.layers.0.self_attn.{name}_proj.weight" for name in "kv")
BLOCK_MATRICES = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
MATRICES = frozenset(
    ["model.embed_tokens.weight"]
    + [f"model.layers.{layer}.{name}.weight" for layer in (0, 1) for name in BLOCK_MATRICES]
)
NORMS = frozenset(
    ["model.norm.weight"]
    + [
        f"model.layers.{layer}.{name}.weight"
        for layer in (0, 1)
        for name in ("input_layernorm", "post_attention_layernorm")
    ]
)
BEFORE_ATTENTION_1 = frozenset(
    {name for name in MATRICES | NORMS if ".layers.0." in name}
    | {f"model.layers.1.self_attn.{name}_proj.weight" for name in "qkvo"}
    | {"model.embed_tokens.weight", "model.layers.1.input_layernorm.weight"}
)


@dataclass(frozen=True)
class Expected:
    """What must be reported.

    step:      first step that differs or is damaged; 0: before the first; None: of no step.
    quantity:  what differs first there; None for damage.
    tensors:   exactly these; None where nothing is claimed, since no digests of single tensors were kept then.
    module:    the part of the model that is named.
    says:      a part of the diagnosis, of the damage or of the notes.
    equal:     whether nothing of what remains differs.
    """

    step: int | None
    quantity: str | None
    tensors: frozenset[str] | None = None
    module: str | None = None
    message: str = ""
    equal: bool = False


@dataclass(frozen=True)
class Fault:
    """One row.

    make:  makes a run with the fault under a name; returns the undisturbed run and it.
    why:   how the expected answer follows.
    """

    name: str
    does: str
    make: Callable[[Bench, str], tuple[Path, Path]]
    expected: Expected
    why: str


def trained(
    *overrides: str, mutation: str | None = None, until: int = 12, **arguments
) -> Callable[[Bench, str], tuple[Path, Path]]:
    """A run with other settings, or with a changed worker, up to a step."""
    return lambda bench, name: (
        bench.straight(),
        bench.train_until(until, name, *overrides, mutation=mutation, **arguments),
    )


def resumed(stop: int, mutation: str, **arguments) -> Callable[[Bench, str], tuple[Path, Path]]:
    """A run that stops at a step and is resumed by a changed worker."""

    def make(bench: Bench, name: str) -> tuple[Path, Path]:
        bench.train_until(stop, name)
        return bench.straight(), bench.resume(name, mutation, **arguments)

    return make


def long(mutation: str, **arguments) -> Callable[[Bench, str], tuple[Path, Path]]:
    """A run up to step 100, where the digests of single tensors are kept."""
    return lambda bench, name: (
        bench.long(),
        bench.train_until(LONG_STEPS, name, *LONG, mutation=mutation, **arguments),
    )


def damaged(act: Callable[[Path, Bench], None]) -> Callable[[Bench, str], tuple[Path, Path]]:
    """A copy of the undisturbed run, changed on disk."""

    def make(bench: Bench, name: str) -> tuple[Path, Path]:
        run = bench.copy(bench.straight(), name)
        act(run, bench)
        return bench.straight(), run

    return make


def corrupt_shard(bench: Bench, name: str) -> tuple[Path, Path]:
    """The dataset's file changes under a run that does not check it."""
    data = bench.copy_of_data(f"data-{name}")
    disk.change_token_of_sample(data, step=9, sample=3)
    return bench.straight(), bench.train_until(10, name, f"data.path={data}", "data.verify=never")


def two_threads(bench: Bench, name: str) -> tuple[Path, Path]:
    """One step with two threads, of a model whose norms have a sum over threads."""
    a = bench.train_until(1, f"{name}-one", "model.norm=layernorm")
    return a, bench.train_until(1, name, "model.norm=layernorm", "hardware.threads_per_rank=2")


def portable_kernels(bench: Bench, name: str) -> tuple[Path, Path]:
    """ATEN_CPU_CAPABILITY=default."""
    a = bench.straight()
    with other_instruction_set() as server:
        return a, bench.on(server).train_until(1, name)


def killed_and_torn(bench: Bench, name: str) -> tuple[Path, Path]:
    """The power goes while record 13 is written: no checkpoint is newer than step 10."""
    run = bench.kill(name, after=13)
    disk.tear_last_record(run)
    return bench.straight(), run


def forged_alone(bench: Bench, name: str) -> tuple[Path, Path]:
    """A forged ledger without another run to compare with."""
    run = bench.copy(bench.straight(), name)
    disk.forge_record(run, 8)
    return run, run


SAME = "although dataset and seed are equal"

FAULTS = [
    Fault(
        "wrong seed", "seed 43 for 42", trained("seed=43", until=1),
        Expected(0, "weights", MATRICES, message="initialisation; the fingerprints differ in config (seed: 42 -> 43)"),
        "matrices are drawn from the seed before step 1; norm weights are ones under any seed",
    ),
    Fault(
        "one initial value", f"one element of {Q_PROJ} starts 1 ulp off",
        trained(mutation="other_initial_value", tensor=Q_PROJ, until=1),
        Expected(0, "weights", frozenset({Q_PROJ}), Q_PROJ, message="[0, 0] alone, by 1 ulp"),
        "record 0 holds the initial weights, and their single digests are kept",
    ),
    Fault(
        "other data order", "the order of another seed", trained(mutation="other_order", seed=7, until=1),
        Expected(1, "data", message=f"data order differs from step 1 {SAME}: A has the samples that seed and dataset prescribe"),
        "the first sample is another one already",
    ),
    Fault(
        "one sample skipped", "from step 7 on every sample is the next one of the order",
        trained("data.order_file=never", mutation="shift_samples", step=7, by=1, until=8),
        Expected(7, "data", message="are 1 place later in the order"),
        "tokens come first in causal order",
    ),
    Fault(
        "one step skipped", "from step 7 on every step has the samples of the next",
        trained("data.order_file=never", mutation="shift_samples", step=7, by=16, until=8),
        Expected(7, "data", message=f"data order differs from step 7 {SAME}: B has the tokens that A had in step 8"),
        "16 samples make a step",
    ),
    Fault(
        "one sample repeated", "from step 7 on every sample is the one before",
        trained(mutation="shift_samples", step=7, by=-1, until=8),
        Expected(7, "data", message="are 1 place earlier in the order"),
        "step 7 begins with the last sample of step 6",
    ),
    Fault(
        "one sample replaced", "the first sequence of step 7 is the third", trained(mutation="skip_sample", step=7, until=8),
        Expected(7, "data", message=f"data order differs from step 7 {SAME}"),
        "only this step's tokens differ, but its update is another",
    ),
    Fault(
        "one token changed", "token 7 of micro-batch 3 in step 9",
        trained(mutation="change_token", step=9, number=3, place=7),
        Expected(9, "data", message="token 7 of sequence 0 of micro-batch 3"),
        "one word of the step's tokens: the two digests name it",
    ),
    Fault(
        "corrupt shard", "one bit of a sample that the order has as the fourth of step 9, check of shards off", corrupt_shard,
        Expected(9, "data", message="token 5 of sequence 1 of micro-batch 1"),
        "sample 3 of a step is sequence 1 of micro-batch 1",
    ),
    Fault(
        "dropout reseeded", "micro-batch 0 of step 6", trained(mutation="reseed_dropout", step=6, until=7),
        Expected(6, "loss", message="same data and weights, the loss differs at step 6: dropout drew other numbers"),
        "dropout acts in the forward pass, so the loss is the first to show it",
    ),
    Fault(
        "optimizer state lost at resume", "first moments zero after step 10", resumed(10, "zero_moments", step=10),
        Expected(11, "weights", message="the optimizer's state or its settings"),
        "data, loss, gradients, rate of step 11 do not depend on moments; the state is digested at step 20 next",
    ),
    Fault(
        "optimizer's step count lost", "bias correction starts again after step 10",
        resumed(10, "forget_updates", step=11),
        Expected(11, "weights"),
        "the count enters only the update, and no digest",
    ),
    Fault(
        "beta changed", "β2 0.99 for 0.95", trained("optimizer.betas=[0.9,0.99]", until=1),
        Expected(1, "weights", message="optimizer.betas: [0.9,0.95] -> [0.9,0.99]"),
        "with bias correction the first updates are equal on paper, not in rounding",
    ),
    Fault(
        "learning rate off by one step", "from step 11 on the rate of the step before",
        resumed(10, "late_learning_rate", step=11),
        Expected(11, "optimizer", message="that of B is A's of step 10"),
        "the rate is recorded; in the cosine no two steps have the same",
    ),
    Fault(
        "other end of the schedule", "final_lr_fraction 0 for 0.1", trained("schedule.final_lr_fraction=0", until=5),
        Expected(5, "optimizer", message="schedule.final_lr_fraction: 0.1 -> 0.0"),
        "warm-up ends with step 4, whose rate is lr itself; the cosine begins with step 5",
    ),
    Fault(
        "no gradient clipping", "grad_clip null for 1", trained("optimizer.grad_clip=null", until=1),
        Expected(1, "weights"),
        "the recorded gradients and norm are the unclipped ones, and the norm of step 1 is above 1",
    ),
    Fault(
        "weight decay on norms", "from step 10 on", trained(mutation="decay_norms", step=10, weight_decay=0.1),
        Expected(10, "weights", NORMS),
        "only norm weights are multiplied by 1 - lr·0.1; both checkpoints of step 10 name the tensors",
    ),
    Fault(
        "one weight bit flipped", "bit 20 of one weight, between steps 9 and 10",
        trained(mutation="flip_weight_bit", step=9),
        Expected(10, "loss", message="or the weights changed between steps 9 and 10"),
        "record 9 was written before; the token table is also the output head, so every loss feels it",
    ),
    Fault(
        "one bit of a second moment", f"bit 23 in {Q_PROJ}, before step 13",
        trained(mutation="flip_moment_bit", step=13, tensor=Q_PROJ, bit=23, until=14),
        Expected(13, "weights"),
        "moments act in the update; the next digest of the state would be at step 20",
    ),
    Fault(
        "one gradient element by 1 ulp", f"element 5 of {Q_PROJ} at step 100",
        long("perturb_gradient", step=100, tensor=Q_PROJ, element=5),
        Expected(100, "gradients", frozenset({Q_PROJ}), Q_PROJ, message=f"gradients differ in {Q_PROJ} [0, 5] alone, by 1 ulp"),
        "single digests of gradients are kept at step 100, and two of them name the element",
    ),
    Fault(
        "backward pass of one module", "one element of the gradient that enters model.layers.1.self_attn, at step 100",
        long("perturb_backward", step=100, module="model.layers.1.self_attn"),
        Expected(100, "gradients", BEFORE_ATTENTION_1, "model.layers.1.self_attn", message="a nondeterministic kernel"),
        "backward reaches the module's own parameters and all before it, none behind it",
    ),
    Fault(
        "gradient error that heals", f"element 5 of {Q_PROJ} by 1 ulp at step 10",
        trained(mutation="perturb_gradient", step=10, tensor=Q_PROJ, element=5),
        Expected(10, "gradients", message="equal again from step 11 on"),
        "0.1 ulp of a gradient is below half an ulp of its first moment: rounded away, and the weights stay",
    ),
    Fault(
        "two tensors swapped", "k_proj and v_proj of block 0 after the update of step 10",
        trained(mutation="swap_tensors", step=10, one=K_PROJ, other=V_PROJ),
        Expected(10, "weights", frozenset({K_PROJ, V_PROJ}), "model.layers.0.self_attn"),
        "a digest of many tensors holds their names",
    ),
    Fault(
        "random state", "other generators are saved after step 10", trained(mutation="other_generators", step=10),
        Expected(10, "rng", frozenset({"torch", "numpy", "random"})),
        "the ledger holds no random state, the checkpoint does; a step sets its generators again, so no bit follows",
    ),
    Fault(
        "another precision", "fp32 for bf16", trained("precision=fp32", until=1),
        Expected(1, "loss", message="precision: bf16 -> fp32"),
        "weights are fp32 in both; the first forward pass rounds elsewhere",
    ),
    Fault(
        "another order of sums", "V 2 for 8", trained("batch.V=2", until=1),
        Expected(1, "gradients", message="batch.V: 8 -> 2"),
        "losses are added by micro-batch under any V; ((0+1)+2)+3 is not (0+1)+(2+3)",
    ),
    Fault(
        "threads", "2 for 1, model.norm layernorm, after one step", two_threads,
        Expected(1, "gradients", message="hardware.threads_per_rank: 1 -> 2"),
        "forward sums run along rows; the backward pass of LayerNorm adds one partial sum per thread",
    ),
    Fault(
        "other instruction set", "ATEN_CPU_CAPABILITY=default", portable_kernels,
        Expected(0, "weights", MATRICES, message="variables.ATEN_CPU_CAPABILITY: (absent) -> default"),
        "normal numbers are drawn with vectorised logarithms and cosines if the CPU has them; ones are ones",
    ),
    Fault(
        "tail torn", "power cut while record 13 is written, newest checkpoint of step 10", killed_and_torn,
        Expected(None, None, equal=True, message="ends within the record of step 13"),
        "a torn record is left out and said; what is left is equal",
    ),
    Fault(
        "tail lost", "the last record is torn, although the checkpoint of step 16 is there",
        damaged(lambda run, _: disk.tear_last_record(run)),
        Expected(None, None, message="the ledger of B ends at step 15, before its checkpoint step-00000016"),
        "the ledger is on disk before a checkpoint commits, so no power cut does this",
    ),
    Fault(
        "ledger edited", "the loss in record 8", damaged(lambda run, _: disk.edit_record(run, 8)),
        Expected(8, None, message="record 8 of the ledger of B does not hold"),
        "the record no longer fits its own link of the chain",
    ),
    Fault(
        "ledger forged", "the loss in record 8, and all links from there on",
        damaged(lambda run, _: disk.forge_record(run, 8)),
        Expected(8, "loss", message="or the record was edited; all records are equal again from step 9 on"),
        "A's record 8 has another loss, and nothing that follows from the loss differs",
    ),
    Fault(
        "checkpoints of a forged ledger", "the same forged run compared with itself",
        forged_alone,
        Expected(None, None, message="checkpoint step-00000010 of B is not the state that its ledger recorded: chain"),
        "its checkpoints hold the true chain",
    ),
    Fault(
        "record removed", "record 8, and all later ones move up", damaged(lambda run, _: disk.remove_record(run, 8)),
        Expected(8, None, message="record 8 of the ledger of B does not hold"),
        "what stands in the place of record 8 says step 9",
    ),
    Fault(
        "checkpoint of another step", "that of step 5 under the name of step 10",
        damaged(lambda run, _: disk.copy_checkpoint(run, 5, run, 10)),
        Expected(None, None, message="step-00000010"),
        "its manifest says step 5",
    ),
    Fault(
        "checkpoint of another run", "step 10 of a run with another β2",
        damaged(lambda run, bench: disk.copy_checkpoint(bench.other(), 10, run, 10)),
        Expected(None, None, message="checkpoint step-00000010 of B is not the state that its ledger recorded: weights, optimizer, chain"),
        "sound in itself, but its digests are not those of record 10",
    ),
    Fault(
        "bit flipped on disk", "in the weights of the checkpoint of step 10",
        damaged(lambda run, _: disk.flip_byte(run, 10)),
        Expected(None, None, message="step-00000010/model-00001-of-00001.safetensors"),
        "every file has its sha256",
    ),
]  # fmt: skip
