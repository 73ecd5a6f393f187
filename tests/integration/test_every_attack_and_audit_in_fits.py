"""A fit with any attack or audit in every step is the fit without it, bit for bit: alone and in two processes, also if
something raises in their midst, or somebody presses Ctrl-C."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

import pytest
from _attacks_and_audits import ATTACKS, AUDITS, AUDITS_IN_WORDS, IN_NO_CHECK, public_kinds
from _fits_of_language_models import CONTROL, NETWORKS, Breaking, check_of, fit
from _prompts import PROMPTS
from _ranks import run_ranks

from lightning_unlearn import Attack
from lightning_unlearn.audits import Audit, Unattacked

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of attacks that fail here, and torch's own about its first FSDP
    pytest.mark.timeout(1800),
]

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


@cache
def undisturbed(*fitted: Any, **settings: Any) -> list[str]:
    """The fit without checks: one for all of them."""
    return fit(None, *fitted, **settings)


def every_attack(*fitted: Any, **settings: Any) -> None:
    check = check_of(EVERY_ATTACK, ONE_AUDIT)
    assert fit(check, *fitted, **settings) == undisturbed(*fitted, **settings)
    refused = SAYS_NO[fitted[1]]
    assert {failure.attack for failure in check.failures} == refused
    seen, steps = {(o.attack, o.step) for o in check.observations}, range(settings["steps"] + 1)
    assert seen == set(product({"none", *EVERY_ATTACK} - refused, steps))


def every_audit(*fitted: Any, **settings: Any) -> None:
    check = check_of(ONE_ATTACK, EVERY_AUDIT, control=CONTROL)
    assert fit(check, *fitted, **settings) == undisturbed(*fitted, **settings)
    assert not check.failures
    assert {o.subject for o in check.observations} == {"original", "control", "unlearned"}
    seen = {o.metric for o in check.observations}
    assert all(seen & set(audit.definitions()) for audit in check.audits)


def broken_attacks(*fitted: Any, **settings: Any) -> None:
    check = check_of(EVERY_ATTACK, ONE_AUDIT)
    check.moment = now_and_then()
    assert fit(check, *fitted, **settings) == undisturbed(*fitted, **settings)
    broken = {failure.attack for failure in check.failures if "in the midst" in failure.message}
    assert len(broken) > len(EVERY_ATTACK) / 2


def broken_audits(*fitted: Any, **settings: Any) -> None:
    check = check_of(ONE_ATTACK, EVERY_AUDIT, control=CONTROL)
    check.moment = now_and_then(first=0)
    assert fit(check, *fitted, **settings) == undisturbed(*fitted, **settings)
    broken = {failure.audit for failure in check.failures if "in the midst" in failure.message}
    assert len(broken) > len(EVERY_AUDIT) / 2


def now_and_then(first: int = 4) -> Callable[[], None]:
    """Raises in about every fourth pass, in the same ones on every rank, but not before the first attack."""
    draws, passes = random.Random(1), iter(range(1_000_000))

    def moment() -> None:
        if next(passes) >= first and draws.random() < 0.25:
            raise RuntimeError("in the midst of a pass")

    return moment


WHOLE, BROKEN = (every_attack, every_audit), (broken_attacks, broken_audits)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("net", NETWORKS)
@pytest.mark.parametrize("assert_unchanged", [*WHOLE, *BROKEN], ids=lambda f: f.__name__)
def test_in_one_process(assert_unchanged: Callable[..., None], net: str, precision: str) -> None:
    assert_unchanged("single", net, precision=precision, steps=2)


IN_TWO_PROCESSES: dict[str, dict[tuple[str, str], Sequence[Callable[..., None]]]] = {
    "ddp": {("plain", "32-true"): WHOLE, ("adapter", "bf16-mixed"): [*WHOLE, *BROKEN]},
    "fsdp2": {("plain", "bf16-mixed"): [*WHOLE, *BROKEN], ("adapter", "32-true"): WHOLE},
}
"""Each strategy meets both networks and both precisions, but not all four pairs of them: that takes minutes more."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", IN_TWO_PROCESSES)
def test_in_two_processes(kind: str) -> None:
    """In two that are started once."""

    def on_rank(rank: int, world_size: int) -> list[str]:
        done = []
        for (net, precision), unchanged in IN_TWO_PROCESSES[kind].items():
            for assert_unchanged in unchanged:
                done.append(f"{assert_unchanged.__name__}, {net} network, {precision}")
                try:
                    assert_unchanged(kind, net, precision=precision, steps=1)
                except Exception as error:
                    raise AssertionError(f"It should be the same fit. Found another: {done[-1]}.") from error
        return done

    first, second = run_ranks(on_rank, timeout=1700)
    assert first == second
    assert len(first) == 6


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_ctrl_c_in_the_midst_of_an_attack(attack: str) -> None:
    assert_stopped_where_it_was(lambda: check_of({attack: ATTACKS[attack]}, ONE_AUDIT))


@pytest.mark.slow
@pytest.mark.parametrize("audit", EVERY_AUDIT)
def test_ctrl_c_in_the_midst_of_an_audit(audit: str) -> None:
    asked = {**ONE_AUDIT, audit: EVERY_AUDIT[audit]}
    assert_stopped_where_it_was(lambda: check_of(ONE_ATTACK, asked, control=CONTROL))


def assert_stopped_where_it_was(make: Callable[[], Breaking]) -> None:
    """Ctrl-C in the last pass of the look after the first step: what is left is the fit at that step."""
    passes, counting = [0], make()

    def count() -> None:
        passes[0] += 1

    counting.moment = count
    fit(counting, steps=1)
    assert passes[0] > 1

    def press() -> None:
        passes[0] -= 1
        if passes[0] == 0:
            signal.raise_signal(signal.SIGINT)

    pressing = make()
    pressing.moment = press
    assert fit(pressing) == ["interrupted", undisturbed("single", "plain", steps=2)[0]]


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """Lightning ignores Ctrl-C for good once it has seen one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
