"""The names of the quantities that a run records: in metrics.jsonl, in TensorBoard and on the screen."""

import math

STEP = "step"
"""Finished optimizer steps: the first object says 1."""
TOKENS = "tokens"
"""Tokens seen after this step, over all ranks."""
LOSS = "loss"
"""Mean loss per target token of the step's batch, nats."""
LOSS_SMOOTH = "loss_smooth"
"""The loss's moving average."""
LEARNING_RATE = "learning_rate"
GRAD_NORM = "grad_norm"
"""Global norm of the averaged gradient before clipping."""
TOKENS_PER_SECOND_PER_GPU = "tokens_per_second_per_gpu"
"""Over the last steps; a rank on CPU counts as one GPU."""
TOTAL_TOKENS_PER_SECOND = "total_tokens_per_second"
STEP_SECONDS = "step_seconds"
"""Seconds from the first micro-batch of the step to its record, without evaluation and saving."""
MFU = "mfu"
"""Model FLOPs utilisation, 0 … 1; null if the peak is unknown."""
VAL_LOSS = "val_loss"
"""Mean loss per target token of the validation windows, nats.  Only at evaluations, as are the next two."""
VAL_PPL = "val_ppl"
VAL_BITS_PER_BYTE = "val_bits_per_byte"
"""Only if the dataset's bytes per token are known."""
BITS_PER_BYTE = "bits_per_byte"
"""The training loss in bits per byte of text; only if the dataset's bytes per token are known."""
CHECKPOINT_STEP = "checkpoint_step"
"""Step of a checkpoint that was found committed since the last row.  The next two are of its save."""
CHECKPOINT_STALL_SECONDS = "checkpoint_stall_seconds"
"""Seconds that training waited: for the check of free space, the previous save and the copy to host buffers."""
CHECKPOINT_SECONDS = "checkpoint_seconds"
"""Seconds from the step boundary until the checkpoint was committed."""
BASELINE_LOW = "baseline_low"
"""Lower end of the baseline's 95 % band for the smoothed loss; only with `monitor.baseline`, as are the next two."""
BASELINE_HIGH = "baseline_high"
BASELINE_Z = "baseline_z"
"""The distance of the smoothed loss from the baseline's mean as a standard normal deviate."""
WARNINGS = "warnings"
"""A list of messages; only at steps with warnings."""

EVERY_STEP = (
    STEP,
    TOKENS,
    LOSS,
    LOSS_SMOOTH,
    LEARNING_RATE,
    GRAD_NORM,
    TOKENS_PER_SECOND_PER_GPU,
    TOTAL_TOKENS_PER_SECOND,
    MFU,
)
"""The quantities in every row of metrics.jsonl."""


def perplexity(loss: float) -> float:
    """The exponential of a mean loss in nats per token; infinity if it overflows fp64."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def bits_per_byte(loss: float, bytes_per_token: float) -> float:
    """A mean loss in nats per token as bits per byte of text: comparable between tokenizers."""
    assert bytes_per_token > 0
    return loss / math.log(2) / bytes_per_token
