"""One changed word is found from two digests alone."""

import hypothesis.strategies as st
import numpy as np
import torch
from hypothesis import given, settings

from llmrun.core.tensor_digest import Digester
from llmrun.storage.ledger.changed_word import (
    CHANGE_MAX,
    ROW_WORDS,
    WORDS_MAX,
    WordChange,
    digest_of_words,
    find_changed_word,
)

N_WORDS = 2 * ROW_WORDS + 1001
WORDS = np.random.default_rng(0).integers(-(2**31), 2**31, N_WORDS, dtype=np.int32)
DIGEST = digest_of_words(WORDS)


def with_words(*changed):
    """The digest of WORDS with some words replaced."""
    words = WORDS.copy()
    for index, value in changed:
        words[index] = value
    return digest_of_words(words)


def test_numpy_and_torch_agree_on_a_digest():
    """Two forms of one definition."""
    assert Digester(torch.device("cpu")).digest(torch.from_numpy(WORDS)) == DIGEST
    assert digest_of_words(np.empty(0, np.int32)) == 0


@settings(max_examples=60)
@given(index=st.integers(0, N_WORDS - 1), bit=st.integers(0, 31))
def test_any_bit_of_any_word_is_found(index, bit):
    """With its place and the change of the word as a signed integer."""
    before = int(WORDS[index])
    after = int(np.uint32(before & 0xFFFFFFFF) ^ np.uint32(1 << bit))
    after -= 2**32 * (after >= 2**31)

    found = find_changed_word(DIGEST, with_words((index, after)), N_WORDS)

    assert found == WordChange(index, after - before)


@settings(max_examples=60)
@given(index=st.integers(0, N_WORDS - 1), change=st.integers(-CHANGE_MAX, CHANGE_MAX).filter(bool))
def test_any_small_change_is_found(index, change):
    """Of either sign."""
    after = int(WORDS[index]) + change
    if not -(2**31) <= after < 2**31:
        return
    assert find_changed_word(DIGEST, with_words((index, after)), N_WORDS) == WordChange(index, change)


@settings(max_examples=60)
@given(places=st.sets(st.integers(0, N_WORDS - 1), min_size=2, max_size=5))
def test_more_than_one_change_names_no_word(places):
    """No single word explains them."""
    changed = [(index, int(WORDS[index]) ^ 1) for index in places]
    assert find_changed_word(DIGEST, with_words(*changed), N_WORDS) is None


def test_nothing_is_found_where_nothing_can_be():
    """Equal digests, a word that is no small change, a tensor too large to search."""
    assert find_changed_word(DIGEST, DIGEST, N_WORDS) is None
    assert find_changed_word(DIGEST, with_words((7, int(WORDS[7]) ^ 0x155555)), N_WORDS) is None
    assert find_changed_word(DIGEST, DIGEST ^ 1, WORDS_MAX + 1) is None
