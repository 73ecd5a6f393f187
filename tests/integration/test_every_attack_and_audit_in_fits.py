"""A fit with any attack or audit in every step is the fit without it, bit for bit: alone and in two processes, also if
something raises in their midst, or somebody presses Ctrl-C."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Mapping
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


def in_every_step(kind: str, net: str, **settings: Any) -> None:
    """Three fits, each against the one without a check: with every attack, every audit, and attacks that break."""
    plain = fit(None, kind, net, **settings)
    assert len(plain) == 3
    check = check_of(EVERY_ATTACK, ONE_AUDIT)
    assert fit(check, kind, net, **settings) == plain
    assert {failure.attack for failure in check.failures} == SAYS_NO[net]
    assert {(o.attack, o.step) for o in check.observations} == set(
        product({"none", *EVERY_ATTACK} - SAYS_NO[net], {0, 1, 2})
    )
    check = check_of(ONE_ATTACK, EVERY_AUDIT, control=CONTROL)
    assert fit(check, kind, net, **settings) == plain
    assert not check.failures
    named = {name for audit in check.audits for name in audit.definitions()}
    assert len(named - {o.metric for o in check.observations}) < len(named) / 3  # some are of other splits
    assert {o.subject for o in check.observations} == {"original", "control", "unlearned"}
    check = check_of(EVERY_ATTACK, ONE_AUDIT)
    check.moment = now_and_then()
    assert fit(check, kind, net, **settings) == plain
    broken = [failure for failure in check.failures if "in the midst" in failure.message]
    assert len({failure.attack for failure in broken}) > len(EVERY_ATTACK) / 2


def now_and_then(least: int = 2) -> Callable[[], None]:
    """Raises in about every fourth pass, in the same ones on every rank; not in the first: these are not attacked."""
    draws, passes = random.Random(1), iter(range(1_000_000))

    def moment() -> None:
        if next(passes) >= 2 * least and draws.random() < 0.25:
            raise RuntimeError("in the midst of a pass")

    return moment


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("net", NETWORKS)
def test_in_one_process(net: str, precision: str) -> None:
    in_every_step("single", net, precision=precision)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("kind", [kind for kind in STRATEGIES if kind != "single"])
def test_in_two_processes(kind: str, precision: str) -> None:
    def on_rank(rank: int, world_size: int) -> None:
        for net in NETWORKS:
            in_every_step(kind, net, precision=precision)

    run_ranks(on_rank, timeout=3600)
