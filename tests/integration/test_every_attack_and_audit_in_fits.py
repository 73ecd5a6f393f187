"""A fit with any attack or audit in every step is the fit without it, bit for bit: alone and in two processes, also if
something raises in their midst, or somebody presses Ctrl-C."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
from _attacks_and_audits import ATTACKS, AUDITS, AUDITS_IN_WORDS, IN_NO_CHECK, public_kinds
from _fits_of_language_models import CONTROL, NETWORKS, STRATEGIES, check_of, fit
from _prompts import PROMPTS
from _ranks import run_ranks

from lightning_unlearn import Attack
from lightning_unlearn.audits import Audit, Unattacked

pytestmark = pytest.mark.filterwarnings("ignore")  # of attacks that fail here, and torch's own about its first FSDP

EVERY_ATTACK: dict[str, Callable[[], Attack]] = {**ATTACKS, **PROMPTS}
EVERY_AUDIT: dict[str, Callable[[], Audit]] = {**AUDITS, **AUDITS_IN_WORDS}
ONE_ATTACK, ONE_AUDIT = {"quantize": ATTACKS["quantize"]}, {"measure": AUDITS["measure"]}
SAYS_NO = {"plain": {"recalibrate"}, "adapter": {"recalibrate", "edited_without_data"}}
"""Attacks that fail by name in these networks: there is no BatchNorm, and `Corrupt` refuses adapters."""


def test_every_public_attack_and_audit_is_in_the_lists() -> None:
    audits = [make() for make in EVERY_AUDIT.values()]
    audits += [audit.audit for audit in audits if isinstance(audit, Unattacked)]
    listed = {type(made) for made in [*audits, *(make() for make in ATTACKS.values() if make is not ATTACKS["merge"])]}
    listed |= {type(make()) for make in PROMPTS.values()} | {type(ATTACKS["merge"]())}
    found = public_kinds(Attack) | public_kinds(Audit)
    assert len(found) > 50
    assert {kind.__name__ for kind in found - listed} <= set(IN_NO_CHECK)


def every_attack(*fitted: Any, **settings: Any) -> None:
    check = check_of(EVERY_ATTACK, ONE_AUDIT)
    assert fit(check, *fitted, **settings) == fit(None, *fitted, **settings)
    refused = SAYS_NO[fitted[1]]
    assert {failure.attack for failure in check.failures} == refused
    seen, steps = {(o.attack, o.step) for o in check.observations}, range(settings["steps"] + 1)
    assert seen == set(product({"none", *EVERY_ATTACK} - refused, steps))


def every_audit(*fitted: Any, **settings: Any) -> None:
    check = check_of(ONE_ATTACK, EVERY_AUDIT, control=CONTROL)
    assert fit(check, *fitted, **settings) == fit(None, *fitted, **settings)
    assert not check.failures
    assert {o.subject for o in check.observations} == {"original", "control", "unlearned"}
    seen = {o.metric for o in check.observations}
    assert all(seen & set(audit.definitions()) for audit in check.audits)


def broken_attacks(*fitted: Any, **settings: Any) -> None:
    check = check_of(EVERY_ATTACK, ONE_AUDIT)
    check.moment = now_and_then()
    assert fit(check, *fitted, **settings) == fit(None, *fitted, **settings)
    broken = {failure.attack for failure in check.failures if "in the midst" in failure.message}
    assert len(broken) > len(EVERY_ATTACK) / 2


def broken_audits(*fitted: Any, **settings: Any) -> None:
    check = check_of(ONE_ATTACK, EVERY_AUDIT, control=CONTROL)
    check.moment = now_and_then(first=0)
    assert fit(check, *fitted, **settings) == fit(None, *fitted, **settings)
    broken = {failure.audit for failure in check.failures if "in the midst" in failure.message}
    assert len(broken) > len(EVERY_AUDIT) / 2


def now_and_then(first: int = 4) -> Callable[[], None]:
    """Raises in about every fourth pass, in the same ones on every rank, but not before the first attack."""
    draws, passes = random.Random(1), iter(range(1_000_000))

    def moment() -> None:
        if next(passes) >= first and draws.random() < 0.25:
            raise RuntimeError("in the midst of a pass")

    return moment


fits = pytest.mark.parametrize(
    "fits", [every_attack, every_audit, broken_attacks, broken_audits], ids=lambda f: f.__name__
)
nets = pytest.mark.parametrize("net", NETWORKS)
precisions = pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])


@pytest.mark.slow
@precisions
@nets
@fits
def test_in_one_process(assert_unchanged: Callable[..., None], net: str, precision: str) -> None:
    assert_unchanged("single", net, precision=precision, steps=2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@precisions
@nets
@fits
@pytest.mark.parametrize("kind", [kind for kind in STRATEGIES if kind != "single"])
def test_in_two_processes(kind: str, assert_unchanged: Callable[..., None], net: str, precision: str) -> None:
    run_ranks(lambda rank, world_size: assert_unchanged(kind, net, precision=precision, steps=1), timeout=1100)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_ctrl_c_in_the_midst_of_an_attack(attack: str) -> None:
    """What is left is the fit at that step."""
    whole, passes = fit(None), [0]

    def count() -> None:
        passes[0] += 1

    check = check_of({attack: ATTACKS[attack]}, ONE_AUDIT)
    check.moment = count
    fit(check, steps=1)
    last = passes[0]  # under attack

    def press() -> None:
        passes[0] -= 1
        if passes[0] == 0:
            signal.raise_signal(signal.SIGINT)

    check = check_of({attack: ATTACKS[attack]}, ONE_AUDIT)
    check.moment = press
    assert last > 1
    assert fit(check) == ["interrupted", whole[0]]


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """Lightning ignores Ctrl-C for good once it has seen one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
