"""Codes in 32-bit words: what was packed, number by number, comes back exactly."""

from __future__ import annotations

import pytest
import torch

from pytest_compsec.models.packed.integers import unpack_awq, unpack_columns, unpack_rows
from tests.unit.models.packed.packers import pack_awq, pack_columns, pack_rows, random_codes


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_come_back_from_rows_and_from_columns(bits: int, seed: int) -> None:
    rows, columns = 32 * (seed + 1), 32 * (5 - seed)
    codes = random_codes(seed, rows, columns, bits)
    known = torch.tensor(codes)
    assert torch.equal(unpack_rows(pack_rows(codes, bits), bits).long(), known)
    assert torch.equal(unpack_columns(pack_columns(codes, bits), bits).long(), known)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("place", [0, 10, 21, 31])
def test_one_code_of_all_ones_does_not_spill(bits: int, place: int) -> None:
    # 10 and 21 are the codes of 3 bits that cross a word; 31 is where the sign bit is.
    codes = [[(2**bits - 1) * (row == place)] for row in range(32)]
    assert torch.equal(unpack_rows(pack_rows(codes, bits), bits).long(), torch.tensor(codes))


def test_three_bits_cross_words_as_the_tools_write_them() -> None:
    # By hand: code 10 leaves its lowest two bits in word 0, its highest is bit 0 of word 1; code
    # 21 leaves its lowest bit in word 1 (the sign), the other two are bits 0 and 1 of word 2.
    words = torch.tensor([[-(2**31)], [1 - 2**31], [2]], dtype=torch.int32)
    codes = unpack_rows(words, 3)[:, 0].tolist()
    assert codes[10] == 0b110
    assert codes[21] == 0b101
    assert sum(codes) == 0b110 + 0b101


def test_words_that_are_no_whole_block_are_an_error() -> None:
    with pytest.raises(ValueError, match="4 rows of words"):
        unpack_rows(torch.zeros(4, 1, dtype=torch.int32), 3)


@pytest.mark.parametrize("seed", range(5))
def test_codes_come_back_from_the_awq_order(seed: int) -> None:
    codes = random_codes(seed, 7 + seed, 8 * (seed + 1), 4)
    assert torch.equal(unpack_awq(pack_awq(codes)).long(), torch.tensor(codes))


def test_the_awq_order_by_hand() -> None:
    # Output 1 is in the fifth four bits of the word.
    word = torch.tensor([[7 << 16]], dtype=torch.int32)
    assert unpack_awq(word).tolist() == [[0, 7, 0, 0, 0, 0, 0, 0]]
