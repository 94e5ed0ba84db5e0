"""The figures of a plan that are shown otherwise if the model is the user's own: its operations are unknown."""

from llmrun.plan.conventions import zero_bytes
from llmrun.plan.plan import Plan
from llmrun.plan.render.language import Translate
from llmrun.text import format_bytes


def describe_own(plan: Plan, translate: Translate) -> str:
    """The model in one line."""
    assert plan.model_kind is not None
    return translate(
        "{factory} makes {kind}: {n} blocks, vocabulary {vocabulary:,}",
        factory=plan.config.model.factory,
        kind=plan.model_kind,
        n=plan.n_blocks,
        vocabulary=plan.config.model.vocab_size,
    )


def parameter_lines(plan: Plan, translate: Translate) -> list[str]:
    """The numbers of parameters as counted in the constructed model."""
    count = plan.parameters
    return [
        translate(
            "tables = {tables:,}: embeddings, and linear layers outside the blocks with at least vocab_size outputs",
            tables=count.embedding,
        ),
        f"N_params = {count.N_params_total:,} - {count.embedding:,} = {count.N_params:,}",
    ]


def flops_lines(plan: Plan, translate: Translate) -> list[str]:
    """What is known of the model's FLOPs."""
    if plan.counted_FLOPs is None:
        return [translate("unknown for a model of your own; `llmrun plan --calibrate` counts and times them")]
    counted, tokens = plan.counted_FLOPs, plan.batch.tokens_seen
    return [
        translate(
            "FLOPs per token = {n:,}, counted by torch in one micro-batch; of {tokens:,} tokens {total:,}",
            n=counted,
            tokens=tokens,
            total=counted * tokens,
        )
    ]


def memory_formulas(plan: Plan, translate: Translate) -> list[str]:
    """The formula of papers that holds for every model."""
    N, D = plan.parameters.N_params_total, plan.batch.D
    states = ", ".join(f"ZeRO-{stage} {format_bytes(zero_bytes(N, D, stage))}" for stage in range(4))
    return [
        translate(
            "weights, gradients and optimizer in mixed precision: {states} (Rajbhandari et al. 2020, arXiv 1910.02054)",
            states=states,
        )
    ]
