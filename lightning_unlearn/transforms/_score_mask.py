from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data import DataSource, in_order, loader_of
from lightning_unlearn.engine import GradientEngine, decided_readout, gathered, isolated, sharded_like
from lightning_unlearn.models.layers import plain_name
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import local
from lightning_unlearn.selectors import Choice, Selector
from lightning_unlearn.transforms._mask import Mask


class ScoreMask(Mask):
    """Weights of high scores are trained. They are scored once, at the first question of a fit that is not resumed.

    Args:
        selector: Scores them.
        choice: Chooses among the scores.
        forget: What must go, if the selector looks at it.
        retain: What must stay, if the selector looks at it.
        readout: How to run the network.
    """

    def __init__(
        self,
        selector: Selector,
        choice: Choice,
        forget: DataSource | None = None,
        retain: DataSource | None = None,
        readout: Readout | None = None,
    ) -> None:
        self.selector, self.choice = selector, choice
        self.forget, self.retain, self.readout = forget, retain, readout
        self._saved: dict[str, Any] = {}
        self._trained: dict[int, Tensor | None] | None = None

    @override
    def setup(self, trainer: pl.Trainer) -> None:
        self._saved, self._trained = {}, None
        self._forget = self._opened("forget", self.forget, self.selector.needs_forget, trainer)
        self._retain = self._opened("retain", self.retain, self.selector.needs_retain, trainer)

    @override
    def start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # Nothing is scored yet: strategies that shard read the checkpoint, which may hold the answer, only after this.
        self._trainer, self._module = trainer, module

    @override
    def stays(self, param: Tensor) -> bool:
        return id(param) not in self._chosen()

    @override
    def elements(self, param: Tensor) -> Tensor | None:
        part = self._chosen().get(id(param))
        return None if part is None else local(part)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Names of what is trained as a whole, and masks of the rest. The masks are whole: any strategy can take them up."""
        if self._trained is None:
            return self._saved
        found = {name: self._trained[id(p)] for name, p in self._named().items() if id(p) in self._trained}
        return {
            "whole": [name for name, part in found.items() if part is None],
            "parts": {name: gathered(part).cpu() for name, part in found.items() if part is not None},
        }

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._saved = state

    @override
    def __repr__(self) -> str:
        return f"{_described(self.selector)}, {_described(self.choice)}"

    def _opened(self, name: str, source: DataSource | None, is_needed: bool, trainer: pl.Trainer) -> Iterable[Any]:
        if not is_needed:
            return ()
        if source is None:
            raise ValueError(
                f"`{type(self.selector).__name__}` should find {name} data to score weights by. Found none. Use "
                f"`TrainOnly(selector=..., {name}=...)`."
            )
        return loader_of(source, name, trainer)

    def _chosen(self) -> dict[int, Tensor | None]:
        """What is trained, by ``id``: a mask of the elements, sharded as the parameter; ``None`` for all of them."""
        if self._trained is None:
            state = self._saved or self._scored()
            named = self._named()
            if missing := {*state["whole"], *state["parts"]} - set(named):
                raise ValueError(
                    "A resumed fit should train what its checkpoint does. Found no parameter of the name "
                    f"`{min(missing)}`, nor {len(missing) - 1} others. Resume with the network that was saved."
                )
            parts = {named[name]: mask for name, mask in state["parts"].items()}
            placed = {id(p): sharded_like(mask.to(local(p).device), p) for p, mask in parts.items()}
            self._trained = {**dict.fromkeys(id(named[name]) for name in state["whole"]), **placed}
        return self._trained

    def _scored(self) -> dict[str, Any]:
        """Score, and choose; what :meth:`state_dict` gives."""
        readout = decided_readout(self._trainer, self._module, self.readout)
        network = readout.find_network(self._module)
        engine = GradientEngine(self._module, self._trainer)
        with isolated(self._trainer, self._module):
            # The same on every process: all have to choose the same weights.
            forget, retain = ([engine.to_device(b) for b in in_order(x)] for x in (self._forget, self._retain))
            scores = self.selector.scores(network, forget=forget, retain=retain, readout=readout, engine=engine)
            masks = {name: gathered(mask).cpu() for name, mask in self.choice(scores).items()}
        params, names = dict(network.named_parameters()), {id(p): name for name, p in self._named().items()}
        found = {names[id(params[name])]: mask for name, mask in masks.items() if mask.any()}
        if not found:
            highest = max((float(gathered(score).max()) for score in scores.values()), default=float("nan"))
            raise ValueError(
                f"Something should be trained. Found nothing that {_described(self.choice)} chooses; the highest score of "
                f"`{type(self.selector).__name__}` is {highest:.4g}."
            )
        whole = [name for name, mask in found.items() if mask.all()]
        state = {"whole": whole, "parts": {name: mask for name, mask in found.items() if name not in whole}}
        # As the first process sees it: another might round a score the other way.
        decided: dict[str, Any] = self._trainer.strategy.broadcast(state)
        return decided

    def _named(self) -> Mapping[str, Tensor]:
        return {plain_name(name): p for name, p in self._module.named_parameters()}


def _described(part: Any) -> str:
    """Class and plain settings: the default ``repr`` is of an address, which no other process shares."""
    plain = (bool, int, float, str, type(None))
    settings = {k: v for k, v in vars(part).items() if isinstance(v, plain) and not k.startswith("_")}
    return f"{type(part).__name__}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"
