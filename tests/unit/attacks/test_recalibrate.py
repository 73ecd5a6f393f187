"""Statistics of norms are estimated anew on retain data, and put back to the bit."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import CLASSES, loader, quiet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn import Recalibrate, RecoveryCheck
from lightning_unlearn.audits import Audit, Measure


def network(norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), norm, nn.Dropout(0.5), nn.Linear(16, CLASSES))


def batches(n: int = 12, size: int = 4) -> list[Tensor]:
    return [torch.randn(size, 8) + 1 for _ in range(n)]


def run(model: nn.Module) -> Any:
    return lambda x: model(x).sum()


class Standardised(nn.Module):
    """A norm of somebody's own, with statistics as torch's norms have them."""

    def __init__(self) -> None:
        super().__init__()
        self.momentum = 0.1
        self.register_buffer("running_mean", torch.zeros(16))

    def reset_running_stats(self) -> None:
        self.running_mean.zero_()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.running_mean.lerp_(x.detach().mean(0), self.momentum)
        return x - self.running_mean


NORMS: dict[str, Any] = {
    "BatchNorm1d": lambda: nn.BatchNorm1d(16),
    "BatchNorm1d, frozen": lambda: nn.BatchNorm1d(16).eval(),
    "BatchNorm1d, cumulative": lambda: nn.BatchNorm1d(16, momentum=None),
    "InstanceNorm1d": lambda: nn.Sequential(
        nn.Unflatten(1, (4, 4)), nn.InstanceNorm1d(4, track_running_stats=True), nn.Flatten()
    ),
    "somebody's own": Standardised,
}
every_norm = pytest.mark.parametrize("norm", NORMS)


@every_norm
def test_statistics_are_the_mean_over_the_batches_seen(norm: str) -> None:
    model, data = network(NORMS[norm]()), batches()
    (averaged,) = [m for m in model.modules() if hasattr(m, "running_mean")]
    with torch.no_grad():
        hidden = [model[0](x) for x in data]
    if norm == "InstanceNorm1d":
        hidden = [h.unflatten(1, (4, 4)).mean(2) for h in hidden]
    means = torch.stack([h.mean(0) for h in hidden])
    seen = []
    with Recalibrate()(model, batches=data, loss=run(model)) as points:
        for point in points:
            seen.append(point)
            assert_close(averaged.running_mean, means[:point].mean(0))
            model.eval()
            model(data[0])  # a look at the network in between adds nothing
    assert seen == [1, 10, 12]


@every_norm
@pytest.mark.parametrize("raises", [False, True])
def test_everything_is_put_back_to_the_bit(norm: str, raises: bool) -> None:
    model, data = network(NORMS[norm]()), batches()
    model(data[0])

    def state() -> Any:
        tensors = {name: t.clone() for name, t in model.state_dict().items()}
        about = [(m.training, getattr(m, "momentum", None), len(m._forward_pre_hooks)) for m in model.modules()]
        return tensors, about, torch.get_rng_state()

    (tensors, about, numbers) = state()
    try:
        with Recalibrate()(model, batches=data, loss=run(model)) as points:
            next(points)
            if raises:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    now, about_now, numbers_now = state()
    assert all(torch.equal(now[name], t) for name, t in tensors.items())
    assert about_now == about
    assert torch.equal(numbers_now, numbers)


@pytest.mark.parametrize("limit", [None, 3])
def test_in_a_fit_it_is_met_after_any_number_of_batches(limit: int | None) -> None:
    """Each of them, drawn by the generator alone; and the statistics are those of the first so many."""
    model, data = network(nn.BatchNorm1d(16)).eval(), batches(5)
    with torch.no_grad():
        means = torch.stack([model[0](x).mean(0) for x in data])

    def met(seed: int) -> int:
        drawn = Recalibrate(limit).drawn(torch.Generator().manual_seed(seed))
        with drawn(model, batches=data, loss=run(model)) as points:
            *_, last = points
            assert_close(model[1].running_mean, means[:last].mean(0))
        return last

    found = [met(seed) for seed in range(40)]
    assert set(found) == set(range(1, (limit or 5) + 1))
    assert found == [met(seed) for seed in range(40)]


def test_of_a_single_batch_that_counts_any_draw_takes_it() -> None:
    model = network(nn.BatchNorm1d(16)).eval()
    for seed in range(8):
        drawn = Recalibrate().drawn(torch.Generator().manual_seed(seed))
        with drawn(model, batches=[torch.randn(1, 8), *batches(1)], loss=run(model)) as points:
            assert list(points) == [1]


def test_in_a_fit_norms_that_do_not_use_their_statistics_are_named() -> None:
    model, drawn = network(nn.BatchNorm1d(16)), Recalibrate().drawn(torch.Generator())
    with pytest.raises(ValueError, match="Found all 1 in training mode: the attack would change nothing. Freeze"):
        with drawn(model, batches=batches(), loss=run(model)):
            pass


def test_it_brings_back_what_was_hidden_in_the_statistics() -> None:
    """A classifier that knows, and forgets only because its running statistics were shifted."""
    torch.manual_seed(0)
    x, y = torch.randn(256, 8), torch.randint(0, CLASSES, (256,))
    x[torch.arange(256), y] += 4
    model = network(nn.BatchNorm1d(16))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()

    def accuracy() -> float:
        return float((model(x).argmax(1) == y).float().mean())

    known = accuracy()
    model[1].running_mean += 5
    hidden = accuracy()
    with Recalibrate()(model, batches=x[y > 0].split(32), loss=run(model)) as points:
        brought_back = [accuracy() for _ in points][-1]
    assert hidden < 0.5 < 0.9 < known
    assert brought_back > 0.9
    assert accuracy() == hidden


@pytest.mark.parametrize("norm", [nn.LayerNorm(16), nn.GroupNorm(4, 16), nn.BatchNorm1d(16, track_running_stats=False)])
def test_a_network_without_statistics_is_named(norm: nn.Module) -> None:
    model = network(norm)
    with pytest.raises(ValueError, match="Found none in `Sequential`: the attack would change nothing"):
        with Recalibrate()(model, batches=batches(), loss=run(model)):
            pass


def test_a_batch_of_one_is_left_out() -> None:
    model = network(nn.BatchNorm1d(16))
    with Recalibrate()(model, batches=[*batches(2), torch.randn(1, 8)], loss=run(model)) as points:
        assert list(points) == [1, 2]


@pytest.mark.parametrize("place", [0, 1, 4])
def test_what_is_left_out_leaves_no_trace(place: int) -> None:
    """Nor in a norm that could take the batch before another one could not."""
    first, last = nn.BatchNorm2d(2), nn.BatchNorm1d(16)
    model = nn.Sequential(nn.Unflatten(1, (2, 2, 2)), first, nn.Flatten(), nn.Linear(8, 16), last)

    def found(data: list[Tensor]) -> list[Tensor]:
        with Recalibrate()(model, batches=data, loss=run(model)) as points:
            assert list(points) == [1, 4]
            return [t.clone() for norm in (first, last) for t in norm.buffers()]

    others = batches(4)
    left_out = torch.full((1, 8), 100.0)
    expected = found(others)
    assert_close(expected[0], torch.stack(others).view(16, 2, 4).mean((0, 2)))
    assert all(map(torch.equal, found([*others[:place], left_out, *others[place:]]), expected))


def test_settings_and_data_are_checked() -> None:
    model = network(nn.BatchNorm1d(16))
    with pytest.raises(ValueError, match="`batches` should be at least 1, or `None` for all. Found `batches = 0`"):
        Recalibrate(batches=0)
    with pytest.raises(ValueError, match="Found no loss"), Recalibrate()(model, batches=batches()):
        pass
    with pytest.raises(ValueError, match="at least two examples. Found none"):
        with Recalibrate()(model, loss=run(model)) as points:
            list(points)
    with Recalibrate(batches=3)(model, batches=batches(), loss=run(model)) as points:
        assert list(points) == [1, 3]


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = network(nn.BatchNorm1d(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_a_check_gives_it_what_the_fit_trains_on() -> None:
    """Forget data is of another mean: the statistics found tell which data it got."""

    class Statistics(Audit):
        means: list[float] = []

        def definitions(self) -> dict[str, str]:
            return Measure().definitions()

        def __call__(self, net: Any, **kwargs: Any) -> Any:
            self.means.append(float(net.net[1].running_mean.mean()))
            return Measure()(net, **kwargs)

    module, audit = Classifier(), Statistics()
    retain, forget = loader(seed=1, shuffle=True), [(x + 100, y) for x, y in loader(seed=2)]
    check = RecoveryCheck({"norms": Recalibrate()}, [audit], probes={"forget": forget}, attack_data=forget)
    quiet(callbacks=[check], max_steps=1).fit(module, retain)
    with torch.no_grad():
        expected = float(torch.cat([module.net[0](x) for x, _ in loader(seed=1)]).mean())
    assert {o.point for o in check.observations if o.attack == "norms"} == {1, 6}
    assert audit.means[2] == pytest.approx(expected, abs=1e-5)
