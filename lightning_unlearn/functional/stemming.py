"""Porter's algorithm: words without their endings, so that "wrote novels" and "writes a novel" have a word in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_Rule = tuple[str, str, Callable[[str], bool]]

# NLTK's list, which `rouge-score` uses: the rules would get these wrong.
_IRREGULAR = {
    **dict.fromkeys(("sky", "skies"), "sky"),
    **{"dying": "die", "lying": "lie", "tying": "tie", "news": "news", "howe": "howe"},
    **dict.fromkeys(("inning", "innings"), "inning"),
    **dict.fromkeys(("outing", "outings"), "outing"),
    **dict.fromkeys(("canning", "cannings"), "canning"),
    **{word: word for word in ("proceed", "exceed", "succeed")},
}


def stem(word: str) -> str:
    """The stem of an English word in lower case, as ``rouge-score`` has it: NLTK's form of Porter's algorithm.

    Example:
        >>> [stem(word) for word in ("writes", "authored", "relational", "happiness", "news")]
        ['write', 'author', 'relat', 'happi', 'news']

    References:
        Porter, *An algorithm for suffix stripping*, 1980; Martin Porter's and NLTK's later changes are included.
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 2:
        return word
    for step in (_plurals, _past, _final_y, _double_suffixes, _suffixes, _last_suffixes, _final_e, _final_l):
        word = step(word)
    return word


def _is_consonant(word: str, place: int) -> bool:
    if word[place] == "y":
        return place == 0 or not _is_consonant(word, place - 1)
    return word[place] not in "aeiou"


def _measure(stem_: str) -> int:
    """How often a vowel is followed by a consonant."""
    kinds = [_is_consonant(stem_, place) for place in range(len(stem_))]
    return sum(not before and after for before, after in zip(kinds, kinds[1:], strict=False))


def _has_vowel(stem_: str) -> bool:
    return not all(_is_consonant(stem_, place) for place in range(len(stem_)))


def _is_short(stem_: str) -> bool:
    """Whether it ends in consonant, vowel, consonant (not w, x, y), or is a vowel and a consonant."""
    last = [_is_consonant(stem_, place) for place in range(len(stem_))][-3:]
    return (last == [True, False, True] and stem_[-1] not in "wxy") or (len(stem_) == 2 and last == [False, True])


def _many(stem_: str) -> bool:
    return _measure(stem_) > 0


def _more(stem_: str) -> bool:
    return _measure(stem_) > 1


def _first_of(word: str, rules: Sequence[_Rule]) -> str:
    """Exchange the first ending that fits, if its stem allows it; else nothing, even if another ending would fit."""
    for ending, new, allowed in rules:
        if word.endswith(ending):
            stem_ = word[: len(word) - len(ending)]
            return stem_ + new if allowed(stem_) else word
    return word


def _any(stem_: str) -> bool:
    return True


def _plurals(word: str) -> str:
    if word.endswith("ies") and len(word) == 4:
        return word[:-1]
    return _first_of(word, [("sses", "ss", _any), ("ies", "i", _any), ("ss", "ss", _any), ("s", "", _any)])


def _past(word: str) -> str:
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return _first_of(word, [("eed", "ee", _many)])
    stem_ = _first_of(word, [("ed", "", _has_vowel), ("ing", "", _has_vowel)])
    if stem_ == word:
        return word
    if stem_.endswith(("at", "bl", "iz")):
        return stem_ + "e"
    if len(stem_) > 1 and stem_[-1] == stem_[-2] and _is_consonant(stem_, len(stem_) - 1):
        return stem_ if stem_[-1] in "lsz" else stem_[:-1]
    return stem_ + "e" if _measure(stem_) == 1 and _is_short(stem_) else stem_


def _final_y(word: str) -> str:
    return _first_of(word, [("y", "i", lambda stem_: len(stem_) > 1 and _is_consonant(stem_, len(stem_) - 1))])


_DOUBLE = "ational ate|tional tion|enci ence|anci ance|izer ize|bli ble|alli al|entli ent|eli e|ousli ous|ization ize"
_DOUBLE += "|ation ate|ator ate|alism al|iveness ive|fulness ful|ousness ous|aliti al|iviti ive|biliti ble|fulli ful"
_SINGLE = "icate ic|ative |alize al|iciti ic|ical ic|ful |ness "
_LAST = "al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize"


def _parsed(text: str) -> list[_Rule]:
    return [(ending, new, _many) for ending, _, new in (rule.partition(" ") for rule in text.split("|"))]


# The l of "logi" counts for the stem, so that "geologi" is shortened as "archaeologi" is.
_DOUBLE_RULES: list[_Rule] = [*_parsed(_DOUBLE), ("logi", "log", lambda stem_: _many(stem_ + "l"))]
_SINGLE_RULES = _parsed(_SINGLE)


def _double_suffixes(word: str) -> str:
    if word.endswith("alli") and _many(word[:-4]):
        return _double_suffixes(word[:-2])
    return _first_of(word, _DOUBLE_RULES)


def _suffixes(word: str) -> str:
    return _first_of(word, _SINGLE_RULES)


def _last_suffixes(word: str) -> str:
    def before_ion(stem_: str) -> bool:
        return _more(stem_) and stem_[-1] in "st"

    return _first_of(word, [(ending, "", before_ion if ending == "ion" else _more) for ending in _LAST.split()])


def _final_e(word: str) -> str:
    if not word.endswith("e"):
        return word
    measure = _measure(word[:-1])
    return word[:-1] if measure > 1 or (measure == 1 and not _is_short(word[:-1])) else word


def _final_l(word: str) -> str:
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word
