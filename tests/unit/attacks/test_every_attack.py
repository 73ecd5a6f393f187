"""What all attacks promise: whatever they do to a network is undone to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from _attacked_network import assert_same_state, batches, loss_of, network, sibling_file, state
from torch import Tensor, nn

from lightning_unlearn import (
    GGUF,
    GPTQ,
    AblateDirection,
    Attack,
    BitsAndBytes,
    ConceptShift,
    Interpolate,
    LatentPerturbation,
    Merge,
    Noise,
    PassiveRecovery,
    Prune,
    Quantize,
    Recalibrate,
    Relearn,
    Sharpen,
    TokenwisePerturbation,
    TruncateUpdate,
    Wanda,
)

ALL_ATTACKS: dict[str, Callable[[], Attack]] = {
    "bitsandbytes-fp4": lambda: BitsAndBytes("fp4", head=True),
    "bitsandbytes-int8": lambda: BitsAndBytes("int8", head=True),
    "bitsandbytes-nf4": lambda: BitsAndBytes("nf4", head=True),
    "gguf-q4_0": lambda: GGUF("Q4_0", head=True),
    "gguf-q4_k": lambda: GGUF("Q4_K", head=True, store="cpu"),
    "gguf-q8_0": lambda: GGUF("Q8_0", head=True),
    "gptq": lambda: GPTQ(3, group_size=None, head=True),
    "gptq-cpu": lambda: GPTQ(3, group_size=2, head=True, store="cpu"),
    "concept-shift": lambda: ConceptShift("swapped", every=1, steps=3, lr=0.1),
    "interpolate": lambda: Interpolate(0.5),
    "ablate": lambda: AblateDirection(["0"]),
    "latent": lambda: LatentPerturbation("0", eps=0.5, steps=3),
    "merge": lambda: Merge(sibling_file(), 0.5),
    "merge-away": lambda: Merge(sibling_file(), -0.5),
    "noise": lambda: Noise(0.5),
    "passive-adapter": lambda: PassiveRecovery(0.5, steps=3, lr=0.1),
    "passive-full": lambda: PassiveRecovery(0.5, steps=3, lr=0.1, mode="full"),
    "prune": lambda: Prune(0.5, head=True),
    "prune-cpu": lambda: Prune(0.5, head=True, store="cpu"),
    "quantize": lambda: Quantize(2, head=True),
    "recalibrate": Recalibrate,
    "relearn-adapter": lambda: Relearn(steps=3, lr=0.1),
    "relearn-full": lambda: Relearn(steps=3, lr=0.1, mode="full"),
    "relearn-layers": lambda: Relearn(steps=3, lr=0.1, mode="full", layers=["4"]),
    "relearn-massed": lambda: Relearn(steps=4, lr=0.1, repeats=2, order_seed=1),
    "relearn-cpu": lambda: Relearn(steps=3, lr=0.1, mode="full", store="cpu"),
    "sharpen": lambda: Sharpen(0.5),
    "tokenwise": lambda: TokenwisePerturbation("0", eps=0.5, steps=3),
    "truncate": lambda: TruncateUpdate(1),
    "wanda": lambda: Wanda(0.5, head=True),
}
every_attack = pytest.mark.parametrize("name", ALL_ATTACKS)


def moved(attack: Attack, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A network in the middle of a fit whose original the attack has seen."""
    torch.manual_seed(0)
    net = network().to(dtype)
    attack.see_original(net)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.2)
    net[0].bias.requires_grad_(False)
    net[0](torch.zeros(2, 4, dtype=dtype)).sum().backward()
    return net


def data(attack: Attack, dtype: torch.dtype = torch.float32) -> Any:
    own = [(x.to(dtype), y) for x, y in batches()]
    if attack.needs_data == "both":
        return {"attack": own, "beside": [(-x, y) for x, y in own]}
    return own[:1] if isinstance(attack, TokenwisePerturbation) else own


def said(net: nn.Module, own: Any) -> Tensor:
    batch = (own["attack"] if isinstance(own, dict) else own)[0]
    with torch.no_grad():
        return net.eval()(batch[0])


@every_attack
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:The step of")
def test_it_changes_what_the_network_says_and_leaves_it_the_same_to_the_bit(name: str, dtype: torch.dtype) -> None:
    attack = ALL_ATTACKS[name]()
    net, own = moved(attack, dtype), data(attack, dtype)
    before, undisturbed = state(net), said(copy.deepcopy(net), own)
    modes = [m.training for m in net.modules()]
    with attack(net, batches=own, loss=loss_of(net)) as points:
        seen = list(points)
        attacked = said(net, own)
    for module, mode in zip(net.modules(), modes, strict=True):  # `said` set them
        module.training = mode
    assert seen
    assert seen == sorted(seen)
    if name != "recalibrate":  # the data alone say how many
        assert len(seen) == attack.planned()[0]
    assert not torch.equal(attacked, undisturbed)
    assert_same_state(before, state(net))
    assert torch.equal(said(net, own), undisturbed)


@every_attack
@pytest.mark.parametrize("consumed", [0, 1])
def test_it_is_undone_after_an_exception_and_when_left_early(name: str, consumed: int) -> None:
    attack = ALL_ATTACKS[name]()
    net, own = moved(attack), data(attack)
    before = state(net)
    with (
        pytest.raises(RuntimeError, match="while looking"),
        attack(net, batches=own, loss=loss_of(net)) as points,
    ):
        for _ in range(consumed):
            next(points)
        raise RuntimeError("while looking")
    assert_same_state(before, state(net))


@pytest.mark.parametrize("name", [n for n, build in ALL_ATTACKS.items() if "merge" not in n and build().needs_data])
def test_it_is_undone_when_its_own_loss_fails(name: str) -> None:
    attack = ALL_ATTACKS[name]()
    net, own = moved(attack), data(attack)
    before = state(net)

    def failing(batch: Any) -> Any:
        raise ZeroDivisionError("in the loss")

    with (
        pytest.raises(ZeroDivisionError, match="in the loss"),
        attack(net, batches=own, loss=failing) as points,
    ):
        list(points)
    assert_same_state(before, state(net))


@every_attack
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, nullcontext], ids=lambda mode: mode.__name__)
def test_it_is_the_same_attack_in_validation_too(name: str, mode: Any) -> None:
    """Lightning validates under inference mode, or without gradients."""
    attack = ALL_ATTACKS[name]()
    net, own = moved(attack), data(attack)
    with attack(net, batches=own, loss=loss_of(net)) as points:
        list(points)
        expected = said(net, own)
    net = moved(attack)
    before = state(net)
    with mode(), attack(net, batches=own, loss=loss_of(net)) as points:
        list(points)
        seen = said(net, own)
    assert torch.equal(seen, expected)
    assert all(torch.equal(a, b) for a, b in zip(before[0], state(net)[0], strict=True))
    assert not any(t.is_inference() for t in [*net.parameters(), *net.buffers()])


@every_attack
@pytest.mark.filterwarnings("ignore:The step of")
def test_it_is_the_same_attack_inside_one_long_autocast(name: str) -> None:
    """Which keeps weights that were cast once until it is left."""
    attack = ALL_ATTACKS[name]()
    (net, own), seen = (moved(attack), data(attack)), []
    mixed = partial(torch.autocast, "cpu", torch.bfloat16)

    def loss(batch: Any) -> Tensor:
        with mixed():
            return loss_of(net)(batch)

    for outer in (nullcontext, mixed):
        with outer():
            with mixed():
                loss_of(net)((own["attack"] if isinstance(own, dict) else own)[0])  # casts weights
            with attack(net, batches=own, loss=loss) as points:
                for _ in points:
                    with mixed():
                        attacked = said(net, own)
            with mixed():
                seen.append((attacked, said(net, own)))
        net = moved(attack)
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])


@every_attack
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
def test_it_is_the_same_attack_whatever_new_tensors_are_by_default(name: str, default: torch.dtype) -> None:
    seen = []
    for dtype in (torch.get_default_dtype(), default):
        attack = ALL_ATTACKS[name]()
        net, own = moved(attack), data(attack)
        torch.set_default_dtype(dtype)
        try:
            with attack(net, batches=own, loss=loss_of(net)) as points:
                list(points)
                seen.append(said(net, own))
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(*seen)


@every_attack
def test_what_is_drawn_is_an_attack_of_its_kind_and_the_same_from_the_same_state(name: str) -> None:
    attack = ALL_ATTACKS[name]()
    net, own = moved(attack), data(attack)
    if isinstance(attack, Recalibrate):
        net.eval()  # in a fit it is of use where norms are frozen
    seen = []
    for seed in (0, 0, 1, 2):
        drawn = attack.drawn(torch.Generator().manual_seed(seed))
        assert type(drawn) is type(attack)
        with drawn(net, batches=own, loss=loss_of(net)) as points:
            list(points)
            seen.append(said(net, own))
    assert torch.equal(seen[0], seen[1])
    random = isinstance(attack, Noise | Recalibrate | Relearn)
    assert random == (not torch.equal(seen[0], seen[2]) or not torch.equal(seen[0], seen[3]))


@pytest.mark.parametrize("name", ["gptq", "latent", "relearn-full", "sharpen", "tokenwise", "wanda"])
def test_it_is_refused_without_data(name: str) -> None:
    attack, net = ALL_ATTACKS[name](), network()
    with pytest.raises(ValueError, match=rf"`{type(attack).__name__}` should get batches and a loss.*Found 0 batches"):
        attack(net, loss=loss_of(net)).__enter__()


@pytest.mark.parametrize("name", ["noise", "relearn-full", "sharpen"])
def test_it_is_refused_where_nothing_trains(name: str) -> None:
    attack, net = ALL_ATTACKS[name](), network().requires_grad_(False)
    with pytest.raises(ValueError, match="should find trainable parameters. Found none"):
        attack(net, batches=batches(), loss=loss_of(net)).__enter__()


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: Noise(sigma=-1.0), "`sigma` should be finite and not negative"),
        (lambda: Noise(seed=-1), "`seed` should be at least 0"),
        (lambda: Sharpen(rho=float("nan")), "`rho` should be finite and not negative"),
        (lambda: Prune(fraction=1.5), "`fraction` should be between 0 and 1"),
        (lambda: Prune(store="disk"), "`store` should be 'device' or 'cpu'"),  # type: ignore[arg-type]
        (lambda: Relearn(store="disk"), "`store` should be 'device' or 'cpu'"),  # type: ignore[arg-type]
        (lambda: Interpolate(alpha=-0.1), "`alpha` should be between 0 and 1"),
        (lambda: BitsAndBytes("int4"), "`kernel` should be 'int8', 'nf4' or 'fp4'"),  # type: ignore[arg-type]
        (lambda: BitsAndBytes("int8", threshold=-1.0), "`threshold` should be finite and not negative"),
        (lambda: GGUF("Q2_K"), "`kind` should be 'Q4_K', 'Q4_0' or 'Q8_0'"),  # type: ignore[arg-type]
        (lambda: GPTQ(bits=1), "`bits` should be between 2 and 16"),
        (lambda: GPTQ(damp=0.0), "`damp` should be positive"),
        (lambda: GPTQ(group_size=0), "`group_size` should be at least 1"),
        (lambda: GPTQ(batches=0), "`batches` should be at least 1"),
        (lambda: GPTQ(store="disk"), "`store` should be 'device' or 'cpu'"),  # type: ignore[arg-type]
        (lambda: Merge("sibling.pt", alpha=2.0), "`alpha` should be between -1 and 1"),
        (lambda: Wanda(fraction=1.5), "`fraction` should be between 0 and 1"),
        (lambda: TruncateUpdate(rank=-1), "`rank` should be at least 0"),
        (lambda: LatentPerturbation("0", eps=-1.0), "`eps` should be finite and not negative"),
        (lambda: TokenwisePerturbation("0", steps=0), "`steps` should be at least 1"),
        (lambda: LatentPerturbation("0", lr=0.0), "`lr` should be positive"),
    ],
)
def test_wrong_settings_are_refused(build: Callable[[], Attack], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build()


def test_a_path_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="`original` should be the path of weights"):
        Interpolate(original="")
    with pytest.raises(TypeError, match="`sibling` should be the path of weights"):
        Merge("")
