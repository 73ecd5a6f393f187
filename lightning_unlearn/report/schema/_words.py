"""Numbers in words, the same words on the page and in the terminal."""

import math
from typing import Any

from lightning_unlearn.observation import strength
from lightning_unlearn.report.schema._interval import Interval
from lightning_unlearn.report.schema._recovery import Recovery

SHOWN = (-0.5, 1.5)
"""Recovery outside this range is shown as "over" or "under" its ends; the JSON has the number."""

NARROW = 0.03
"""A recovery whose interval is narrower than this is shown with a decimal."""


def name(metric: str) -> str:
    """A metric's name without underscores.

    Example:
        >>> name("token_nll")
        'token nll'
    """
    return metric.replace("_", " ")


def number(value: float | None) -> str:
    """Three decimals, or two digits of something tiny.

    Example:
        >>> number(0.25), number(0.00002), number(None)
        ('0.250', '2.0e-05', '-')
    """
    if value is None:
        return "-"
    tiny = 0 < abs(value) < 0.0005
    return f"{value:.1e}" if tiny else f"{value:.3f}"


def percent(value: float, *, digits: int = 0) -> str:
    """A share as a percentage.

    Args:
        value: The share.
        digits: After the decimal point.

    Example:
        >>> percent(0.624), percent(7.0), percent(float("nan"))
        ('62 %', 'over 150 %', 'undefined')
    """
    if math.isnan(value):
        return "undefined"
    if value > SHOWN[1]:
        return f"over {SHOWN[1]:.0%}".replace("%", " %")
    if value < SHOWN[0]:
        return f"under {SHOWN[0]:.0%}".replace("%", " %")
    return f"{round(100 * value, digits) + 0.0:.{digits}f} %"  # + 0.0: never "-0 %"


def level_words(interval: Interval | None) -> str:
    """A level with its interval.

    Example:
        >>> level_words(Interval(0.5, 0.25, 0.75))
        '0.500 [0.250, 0.750]'
    """
    if interval is None:
        return "-"
    bounds = "" if interval.low is None else f" [{number(interval.low)}, {number(interval.high)}]"
    return number(interval.value) + bounds


def recovery_words(interval: Interval) -> str:
    """A recovery with its interval. It has a decimal only if the interval is narrow enough for it to mean something.

    Example:
        >>> recovery_words(Interval(0.62, 0.48, 0.75)), recovery_words(Interval(0.0123, 0.01, 0.015))
        ('62 % [48, 75]', '1.2 % [1.0, 1.5]')
    """
    if interval.unbounded:
        return f"{percent(interval.value)} [unbounded]"
    if interval.low is None or interval.high is None:
        return percent(interval.value)
    digits = 1 if interval.high - interval.low < NARROW else 0
    low, high = (percent(end, digits=digits).removesuffix(" %") for end in (interval.low, interval.high))
    return f"{percent(interval.value, digits=digits)} [{low}, {high}]"


def point_words(recovery: Recovery) -> str:
    """The point of an attack: ``4 bits``, ``step 20``.

    Example:
        >>> point_words(Recovery("q", {}, "quant", 4, "bits", 9, "p", Interval(0.5), None, Interval(0.5)))
        '4 bits'
    """
    return strength(recovery.point, recovery.unit)


def attack_words(recovery: Recovery) -> str:
    """An attack at its point, as the subject of a sentence.

    Example:
        >>> attack_words(Recovery("relearn", {}, "relearn", 20, "step", 9, "p", Interval(0.5), None, Interval(0.5)))
        '20 steps of relearning'
        >>> attack_words(Recovery("q", {}, "quant", 4, "bits", 9, "p", Interval(0.5), None, Interval(0.5)))
        'q at 4 bits'
        >>> attack_words(Recovery("bn", {}, "recalibrate", 10, "batches", 9, "p", Interval(0.5), None, Interval(0.5)))
        'new statistics of norms over 10 batches (bn)'
        >>> attack_words(Recovery("relearn", {}, "relearn", 0, "step", 9, "p", Interval(0.5), None, Interval(0.5)))
        'relearning, before its first step'
    """
    if recovery.family == "recalibrate" and recovery.unit == "batches":
        batches = "1 batch" if recovery.point == 1 else f"{recovery.point} batches"
        own = "" if recovery.attack == "recalibrate" else f" ({recovery.attack})"
        return f"new statistics of norms over {batches}{own}"
    if recovery.family != "relearn" or recovery.unit != "step":
        return f"{recovery.attack} at {point_words(recovery)}"
    steps = "1 step" if recovery.point == 1 else f"{recovery.point} steps"
    own_name = "" if recovery.attack in ("relearn", "relearning") else f" ({recovery.attack})"
    if recovery.point == 0:
        return f"relearning{own_name}, before its first step"
    return f"{steps} of relearning{own_name}"


def price_words(price: float | None) -> str:
    """What an attack costs the rest of the model, as a share of its retain utility.

    Example:
        >>> price_words(0.51), price_words(0.004), price_words(-0.2), price_words(None)
        ('51 %', '0.4 %', 'none (-20 %)', '-')
    """
    if price is None:
        return "-"
    # A negative price is a gain, and costs nothing. Rounded to 0 it is no gain either.
    share = percent(price, digits=0 if abs(price) >= 0.1 else 1)
    return share if price >= 0 or share.startswith("0") else f"none ({share})"


def duration(seconds: float) -> str:
    """A time in words.

    Example:
        >>> duration(0.31), duration(93), duration(7000)
        ('0.3 s', '93 s', '1.9 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def grouped(number: float) -> str:
    """A whole number, its thousands apart.

    Example:
        >>> grouped(33600.0), grouped(12)
        ('33 600', '12')
    """
    return f"{number:,.0f}".replace(",", " ")


def rough(price: float) -> str:
    """A share in words.

    Example:
        >>> rough(0.003), rough(0.51), rough(0.98)
        ('next to nothing', 'about half', 'nearly all')
    """
    return next((words for limit, words in _ROUGHLY if price < limit), "nearly all")


_ROUGHLY = (
    (0.01, "next to nothing"),
    (0.05, "very little"),
    (0.17, "about a tenth"),
    (0.29, "about a quarter"),
    (0.42, "about a third"),
    (0.58, "about half"),
    (0.71, "about two thirds"),
    (0.9, "most"),
)


def plain(value: Any) -> str:
    """A setting in words.

    Example:
        >>> plain({"bits": 4, "skip": ["head"]})
        'bits: 4, skip: [head]'
    """
    if isinstance(value, dict):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(plain(item) for item in value)}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
