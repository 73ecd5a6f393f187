"""What stands in what: against oracles that are written another way."""

from __future__ import annotations

import random
from functools import cache

import pytest
from torch.testing import assert_close

from lightning_unlearn.functional.overlap import contained_share, ngram_share, similarities, words_of


def distance(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """By its recursion."""

    @cache
    def of(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(of(i - 1, j) + 1, of(i, j - 1) + 1, of(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return of(len(a), len(b))


def texts(seed: int, count: int = 12) -> list[tuple[str, ...]]:
    """Of few words, so that they overlap; some are empty."""
    draw = random.Random(seed)
    return [tuple(draw.choice("abcd") for _ in range(draw.randrange(9))) for _ in range(count)]


def text(words: tuple[str, ...]) -> str:
    return f" {' '.join(words)} "


@pytest.mark.parametrize("seed", range(5))
def test_similarity_is_levenshteins_distance_by_its_recursion(seed: int) -> None:
    one, *others = texts(seed)
    by_hand = [1 - distance(one, b) / max(len(one), len(b)) if one or b else 1.0 for b in others]
    assert_close(similarities(one, others).tolist(), by_hand)
    assert similarities(one, []).tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_contained_is_what_is_a_substring_between_blanks(seed: int) -> None:
    parts, wholes = texts(seed), texts(seed + 100)
    parts = [part[:3] for part in parts]
    found = [any(text(part) in text(whole) for whole in wholes) for part in parts if part]
    assert contained_share(parts, wholes) == pytest.approx(sum(found) / len(found))


def test_nothing_is_contained_in_nothing() -> None:
    assert contained_share([], [("a",)]) == contained_share([("a",)], []) == contained_share([()], [("a",)]) == 0
    assert ngram_share([("a", "b")], [("a", "b")], n=8) == 0  # too short for a run


def test_runs_are_counted_once_and_across_texts() -> None:
    wanted = [tuple("abcd"), tuple("abcx")]  # abc, bcd, bcx
    assert ngram_share(wanted, [tuple("zabc"), tuple("bcd")], n=3) == pytest.approx(2 / 3)
    assert ngram_share(wanted, wanted, n=3) == 1


def test_words_are_told_apart_from_parts_of_words() -> None:
    assert contained_share([words_of("art")], [words_of("She departs.")]) == 0
    assert contained_share([words_of("ART")], [words_of("Of art, mostly.")]) == 1
