import math

from llmrun.storage.metrics import names


def test_contract_names() -> None:
    """Users' scripts rely on these names: they never change."""
    assert names.EVERY_STEP == (
        "step",
        "tokens",
        "loss",
        "loss_smooth",
        "learning_rate",
        "grad_norm",
        "tokens_per_second_per_gpu",
        "total_tokens_per_second",
        "mfu",
    )
    assert (names.VAL_LOSS, names.VAL_PPL) == ("val_loss", "val_ppl")
    assert (names.BASELINE_LOW, names.BASELINE_HIGH, names.BASELINE_Z, names.WARNINGS) == (
        "baseline_low",
        "baseline_high",
        "baseline_z",
        "warnings",
    )
    assert (names.BITS_PER_BYTE, names.VAL_BITS_PER_BYTE) == ("bits_per_byte", "val_bits_per_byte")


def test_perplexity() -> None:
    """A uniform guess among 4096 tokens has perplexity 4096; a huge loss is infinite, not an error."""
    assert math.isclose(names.perplexity(math.log(4096)), 4096)
    assert names.perplexity(1e4) == math.inf


def test_bits_per_byte() -> None:
    """A uniform guess among 256 bytes costs 8 bits a byte, and half of it at two bytes a token."""
    assert names.bits_per_byte(math.log(256), 1.0) == 8.0
    assert names.bits_per_byte(math.log(256), 2.0) == 4.0
