"""The 64-bit digest of a tensor, in torch (docs/ledger-format.md).

digest = Σ e_i·κ_i mod 2^64, where e_i is the i-th little-endian 32-bit word of the whole tensor as a signed
integer and κ_i = (splitmix64(i mod 65536) | 1) · (splitmix64(2^40 + i div 65536) | 1).  It depends on every
word's value and position, and the digests of pieces that start on word boundaries add up to the whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmrun.core.splitmix import splitmix64_array

ROW_WORDS = 65_536
MASK = 2**64 - 1
_ROWS_PER_CHUNK = 64


@dataclass(frozen=True)
class Words:
    """A piece of a tensor as words.

    values: [n_words], int32, contiguous.  start: index of the first word in the whole tensor.
    """

    values: Tensor
    start: int


def words_of(values: Tensor, start_element: int = 0) -> Words:
    """The words of a contiguous piece that starts at `start_element` of its flattened tensor.

    values: any shape and dtype; the piece starts on a word boundary.  The end is zero-padded to a whole word.
    """
    flat = values.detach().contiguous().view(-1)
    start, rest = divmod(start_element * flat.element_size(), 4)
    assert rest == 0, "a piece must start on a word boundary"
    if flat.nbytes % 4:
        flat = torch.nn.functional.pad(flat.view(torch.uint8), (0, -flat.nbytes % 4))
    return Words(flat.view(torch.int32), start)


class Digester:
    """Computes digests on one device; keeps its constants and one chunk buffer there."""

    def __init__(self, device: torch.device) -> None:
        column = splitmix64_array(np.arange(ROW_WORDS, dtype=np.uint64)) | np.uint64(1)
        self.device = device
        self._column = torch.from_numpy(column.view(np.int64).copy()).to(device)
        self._rows: dict[int, int] = {}
        on_cpu = device.type == "cpu"
        shape = (ROW_WORDS,) if on_cpu else (_ROWS_PER_CHUNK, ROW_WORDS)
        self._buffer = torch.empty(shape, dtype=torch.int64, device=device)
        self._row_sums = self._row_sums_on_cpu if on_cpu else self._row_sums_in_chunks

    def digests(self, pieces: Sequence[Words]) -> list[int]:
        """The digest of each piece, 0 … 2^64-1.  One transfer from the device for all of them."""
        sums: list[Tensor] = []
        rows: list[list[int]] = []
        for piece in pieces:
            first, stop = piece.start // ROW_WORDS, -(-(piece.start + len(piece.values)) // ROW_WORDS)
            rows.append([self._row_constant(row) for row in range(first, stop)] if len(piece.values) else [])
            sums += self._row_sums(piece)
        values = iter(torch.cat([s.view(-1) for s in sums]).tolist() if sums else [])
        return [sum(next(values) * constant for constant in constants) & MASK for constants in rows]

    def digest(self, values: Tensor) -> int:
        """The digest of a whole tensor, 0 … 2^64-1."""
        return self.digests([words_of(values)])[0]

    def _row_constant(self, row: int) -> int:
        """splitmix64(2^40 + row) | 1."""
        if row not in self._rows:
            index = np.array([2**40 + row], dtype=np.uint64)
            self._rows[row] = int(splitmix64_array(index)[0]) | 1
        return self._rows[row]

    def _row_sums_on_cpu(self, piece: Words) -> list[Tensor]:
        """Σ e_i·column_i of each row that the piece touches, row by row: the buffer stays in cache."""
        sums = []
        at, column = 0, piece.start % ROW_WORDS
        while at < len(piece.values):
            count = min(ROW_WORDS - column, len(piece.values) - at)
            words = self._buffer[:count]
            words.copy_(piece.values[at : at + count])
            sums.append(torch.dot(words, self._column[column : column + count]))
            at, column = at + count, 0
        return sums

    def _row_sums_in_chunks(self, piece: Words) -> list[Tensor]:
        """The same with few large kernels, since CUDA has no integer dot product."""
        sums = []
        at, column = 0, piece.start % ROW_WORDS
        while at < len(piece.values):
            left = len(piece.values) - at
            if column == 0 and left >= ROW_WORDS:
                n_rows = min(left // ROW_WORDS, _ROWS_PER_CHUNK)
                block = piece.values[at : at + n_rows * ROW_WORDS].view(n_rows, ROW_WORDS)
                products = torch.mul(block, self._column, out=self._buffer[:n_rows])
                sums.append(products.sum(1))
                at += n_rows * ROW_WORDS
                continue
            count = min(ROW_WORDS - column, left)
            words = piece.values[at : at + count].to(torch.int64)
            sums.append((words * self._column[column : column + count]).sum())
            at, column = at + count, 0
        return sums
