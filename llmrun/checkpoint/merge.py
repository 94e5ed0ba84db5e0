"""From the parts of all ranks to one table of tensors: a pure function."""

from collections.abc import Sequence

from llmrun.checkpoint.layout import group_of, shard_name
from llmrun.checkpoint.manifest import PieceEntry, TensorEntry, check_pieces
from llmrun.checkpoint.part import Part, PartTensor
from llmrun.checkpoint.strict_json import WrongValue

_DIGEST_MODULUS = 2**64


def merge_parts(parts: Sequence[Part], world: int) -> dict[str, TensorEntry]:
    """The tensors whose pieces the ranks 0 … world-1 wrote, in order of appearance.

    Partial digests add up mod 2^64.  Raises WrongValue where ranks disagree about a tensor, or where the
    pieces do not cover it exactly.
    """
    assert [part.rank for part in parts] == list(range(world))
    firsts: dict[str, PartTensor] = {}
    digests: dict[str, int] = {}
    pieces: dict[str, list[PieceEntry]] = {}
    for part in parts:
        for tensor in part.tensors:
            first = firsts.setdefault(tensor.name, tensor)
            if (tensor.kind, tensor.dtype, tensor.shape) != (first.kind, first.dtype, first.shape):
                raise WrongValue(
                    f"rank {part.rank} holds {tensor.name} as {_described(tensor)}, "
                    f"another rank as {_described(first)}"
                )
            digests[tensor.name] = (digests.get(tensor.name, 0) + tensor.digest) % _DIGEST_MODULUS
            held = pieces.setdefault(tensor.name, [])
            if tensor.count > 0:
                file = shard_name(group_of(tensor.kind), part.rank, world)
                held.append(PieceEntry(file, tensor.start, tensor.count))
    merged = {}
    for name, first in firsts.items():
        digest = f"{digests[name]:016x}"
        merged[name] = TensorEntry(first.kind, first.dtype, first.shape, digest, tuple(pieces[name]))
        check_pieces(merged[name], name)
    return merged


def _described(tensor: PartTensor) -> str:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return f"{tensor.kind} {tensor.dtype} {shape}"
