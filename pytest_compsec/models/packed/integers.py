"""Small codes in 32-bit words: one stream of bits, the lowest bit of the first word first.

Code ``i`` of a stream takes the bits ``i * bits`` up to ``(i + 1) * bits``. With 2, 4 and 8 bits no
code crosses a word; with 3 bits every 32 codes fill three words, and the codes 10 and 21 of them
cross (10 whole codes, one split 2 + 1, 10 whole, one split 1 + 2, 10 whole: the layout that
GPTQModel and AutoGPTQ write).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WORD = 32
# Where AWQ's GEMM layout puts the code of each of eight neighbouring outputs: output 0 in the
# lowest four bits, output 1 in the fifth, output 2 in the second ... (the tool packs them in the
# order 0, 2, 4, 6, 1, 3, 5, 7; this is its inverse).
AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


def words_per_block(bits: int) -> int:
    """How many words it takes until a code begins where a word begins again."""
    return 3 if bits == 3 else 1


def unpack_rows(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes that run down the rows of each column.

    ``words``: int32, (rows, columns). Returns uint8, (32 * rows / bits, columns). The work is one
    operation over the whole matrix for each place in a block (32 / bits, or 32 with 3 bits), so no
    intermediate is larger than the codes. Raises ValueError when the rows are no whole blocks.
    """
    import torch

    block = words_per_block(bits)
    rows, columns = words.shape
    if rows % block:
        raise ValueError(f"{rows} rows of words are no whole number of blocks of {block}")
    blocks = words.reshape(rows // block, block, columns)
    codes_per_block = WORD * block // bits
    codes = torch.empty(
        (rows // block, codes_per_block, columns), dtype=torch.uint8, device=words.device
    )
    mask = (1 << bits) - 1
    for place in range(codes_per_block):
        word, shift = divmod(place * bits, WORD)
        here = blocks[:, word] >> shift
        kept = WORD - shift
        if kept < bits:
            # The shift carries the sign along: clear it before the next word's bits come in.
            here = (here & ((1 << kept) - 1)) | (blocks[:, word + 1] << kept)
        codes[:, place] = here & mask
    return codes.reshape(-1, columns)


def unpack_columns(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes that run along the columns of each row: (rows, columns) int32 words in, (rows,
    32 * columns / bits) uint8 codes out. Raises ValueError as :func:`unpack_rows` does."""
    return unpack_rows(words.T, bits).T


def unpack_awq(words: torch.Tensor) -> torch.Tensor:
    """4-bit codes in AWQ's GEMM order: (rows, columns) int32 in, (rows, 8 * columns) uint8 out."""
    rows, columns = words.shape
    codes = unpack_columns(words, 4).reshape(rows, columns, 8)
    return codes[:, :, list(AWQ_PLACES)].reshape(rows, columns * 8)
