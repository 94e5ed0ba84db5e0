"""Which documents are validation: chosen by hash, so that equal documents never stand on both sides.

A document belongs to the validation split where the first 8 bytes of its sha256, as a big-endian fraction
of 2^64, lie below the fraction asked for.  With fewer than 100 documents that would be a lottery: then the
validation split is the last fraction of the token stream.
"""

from collections.abc import Sequence
from fractions import Fraction

from llmrun.errors import InputError

FEW_DOCUMENTS = 100


def exact_fraction(val_fraction: float) -> Fraction:
    """The decimal number that the user wrote: 0.1 is 1/10."""
    return Fraction(str(val_fraction))


def position_of(sha256: str) -> int:
    """Where a document lies in [0, 2^64)."""
    return int(sha256[:16], 16)


def validation_documents(hashes: Sequence[str], val_fraction: float) -> set[str]:
    """The sha256s of the validation documents, out of those of all documents.

    Neither split stays empty where the fraction is not 0 and two documents differ.
    """
    if val_fraction == 0:
        return set()
    limit = exact_fraction(val_fraction) * 2**64
    different = sorted(set(hashes), key=position_of)
    chosen = {sha256 for sha256 in different if position_of(sha256) < limit}
    if len(different) > 1:
        chosen.add(different[0])
        chosen.discard(different[-1])
    return chosen


def tail_tokens(n_tokens: int, val_fraction: float) -> int:
    """Tokens of the validation split where it is the end of the stream: rounded down."""
    return int(n_tokens * exact_fraction(val_fraction))


LARGEST_EXCESS = 0.05
"""Validation may always take so much more of the text than was asked for."""


def check_share(val_bytes: int, all_bytes: int, val_fraction: float) -> None:
    """Refuse a split by documents that is far from what was asked for, by bytes of text.

    The rule: validation gets at most 5 points more than --val-fraction, or twice of it if that is more, and never all.
    Raises InputError.
    """
    got = val_bytes / all_bytes
    if val_bytes == all_bytes:
        raise InputError(
            "the training split would be empty: all documents fall to validation",
            hints=["set a smaller `--val-fraction`"],
        )
    if got > val_fraction + max(LARGEST_EXCESS, val_fraction):
        raise InputError(
            f"validation would take {got:.1%} of the text, --val-fraction asks for {val_fraction:.2%}:"
            " documents are split whole, and a large one falls to validation",
            hints=[
                "cut large documents into several files, for example with `split -C 1M`",
                "`--val-fraction 0` keeps no validation split",
            ],
        )
