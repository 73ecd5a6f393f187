from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_unlearn.functional.logistic import fit_logistic, standardise
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.runtime import seeded

_STEPS = 300


@dataclass(frozen=True)
class Decodability:
    """How well fresh probes read classes off hidden states that they were not trained on.

    Args:
        linear: Accuracy of a logistic regression.
        mlp: Accuracy of a network with one hidden layer.
        chance: Accuracy of always naming the class that is commonest in training.
    """

    linear: float
    mlp: float
    chance: float


def decodability(
    train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], *, hidden: int = 64, seed: int = 0
) -> Decodability:
    """Train fresh probes from scratch on some prompts, and test them on others about the same things.

    Whether something is gone from hidden states is answered by such probes alone. A probe that took part in training, as
    :class:`LiveProbe`, may have lost to the network and not to the facts. Compare with the same number of a network that
    never knew, and of one with random weights: a probe may read the prompt rather than the knowledge.

    Args:
        train: Hidden states ``[N, D]`` and classes ``[N]`` int64, for instance of the questions.
        held_out: The same of other prompts: paraphrases. No prompt should be in both.
        hidden: Width of the hidden layer of the second probe.
        seed: Of its start values. The global random numbers are left alone.

    Raises:
        ValueError: If one of the two is empty, they differ in width, or a class is held out that was not trained on.

    Example:
        >>> states, classes = torch.tensor([[-1.0], [-2.0], [1.0], [2.0]]), torch.tensor([0, 0, 1, 1])
        >>> decodability((states, classes), (3 * states, classes))
        Decodability(linear=1.0, mlp=1.0, chance=0.5)
    """
    check_whole("hidden", hidden)
    _refuse_unfit(train, held_out)
    (states, classes), (new_states, new_classes) = train, held_out
    mean, scale = standardise(states.detach().double())
    x, new = ((each.detach().double() - mean) / scale for each in (states, new_states))
    count = int(classes.max()) + 1
    weight, bias = fit_logistic(x, classes, count)
    mlp = _fit_mlp(x.float(), classes, count, hidden, seed)
    with torch.no_grad():
        said = {"linear": F.linear(new, weight, bias).argmax(1), "mlp": mlp(new.float()).argmax(1)}
    commonest = classes.bincount().argmax().expand_as(new_classes)
    said["chance"] = commonest
    return Decodability(**{name: float((c == new_classes).float().mean()) for name, c in said.items()})


def _fit_mlp(states: Tensor, classes: Tensor, count: int, hidden: int, seed: int) -> nn.Module:
    with seeded(seed):
        probe = nn.Sequential(nn.Linear(states.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, count)).to(states.device)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=1e-2, weight_decay=1e-2)
    with torch.inference_mode(False), torch.enable_grad():
        for _ in range(_STEPS):
            optimizer.zero_grad()
            F.cross_entropy(probe(states), classes).backward()
            optimizer.step()
    return probe


def _refuse_unfit(train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor]) -> None:
    shapes = [tuple(states.shape) for states, _ in (train, held_out)]
    if not all(len(shape) == 2 and shape[0] for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            "`train` and `held_out` should hold hidden states [N, D] of one width, and at least one each. Found shapes "
            f"{shapes[0]} and {shapes[1]}."
        )
    if unseen := sorted(set(held_out[1].tolist()) - set(train[1].tolist())):
        raise ValueError(
            f"Every class of `held_out` should be in `train`: no probe can name one that it never saw. Found {len(unseen)} "
            f"others, {unseen[0]} first. Hold out prompts, not facts."
        )
