"""What was published about methods on TOFU, and whether it held here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tofu_parts._differences import Difference, Draws, difference

PEER = "open-unlearning, docs/repro.md, forget05 and forget10"
LLAMA = f"{PEER}, Llama-2-7b-chat"
SIMNPO = "Fan et al., 2410.07163"
QUANTISED = "Zhang et al., 2410.16454"
JOGGED = "Hu et al., 2406.13356"
SMOOTH = "Fan et al., 2502.05374"
WEIGHTED = "Wang et al., 2502.19301"
DISTILLED = "Dong et al., 2402.10052"
JENSEN = "Singh et al., 2509.02820"
SELECTED = "RepSelect, 2606.17168, of its one-shot edit"

Verdict = Literal["held", "did not hold", "undecided", "not asked"]


@dataclass(frozen=True)
class Claim:
    """One measure of a method, compared with a share of others'.

    Args:
        words: What was said.
        source: By whom.
        measure: What is compared.
        one: Of which method.
        others: With which, each.
        more: Whether it should be more, or less.
        share: Of the others'.
    """

    words: str
    source: str
    measure: str
    one: str
    others: tuple[str, ...]
    more: bool
    share: float = 1.0

    def checked(self, draws: Mapping[str, Draws]) -> dict[str, Any]:
        """The verdict, and what it rests on."""
        of = draws.get(self.measure, {})
        found = [difference(of, self.one, other, self.share) for other in self.others]
        there = [each for each in found if each is not None]
        verdict = judge(there, self.more) if len(there) == len(found) else "not asked"
        return {
            "claim": self.words,
            "source": self.source,
            "measure": self.measure,
            "verdict": verdict,
            "differences": [each.told() for each in there],
        }


def judge(differences: Sequence[Difference], more: bool) -> Verdict:
    """Held, if all intervals say so; not, if one says the opposite; undecided otherwise."""
    sign = 1.0 if more else -1.0
    ends = [sorted((sign * each.low, sign * each.high)) for each in differences]
    if not ends:
        return "not asked"
    if any(high < 0 for _, high in ends):
        return "did not hold"
    return "held" if all(low > 0 for low, _ in ends) else "undecided"


# Forget quality is the p-value of a KS test with as many questions for all, so more quality is a smaller distance.
CLAIMS = (
    Claim(
        "NPO has the best forget quality of GA, GradDiff, IdkDPO, SimNPO and RMU",
        PEER,
        "ks",
        "NPO",
        ("GA", "GradDiff", "IdkDPO", "SimNPO", "RMU"),
        more=False,
    ),
    Claim("NPO forgets better than SimNPO", PEER, "ks", "NPO", ("SimNPO",), more=False),
    Claim("SimNPO forgets better than NPO", SIMNPO, "ks", "SimNPO", ("NPO",), more=False),
    Claim("SimNPO keeps more utility than NPO", f"{PEER}; {SIMNPO}", "utility", "SimNPO", ("NPO",), more=True),
    Claim("GA leaves less than a tenth of the utility", PEER, "utility", "GA", ("original",), more=False, share=0.1),
    Claim("GradDiff keeps more utility than GA", PEER, "utility", "GradDiff", ("GA",), more=True),
    Claim("RMU leaves less than a tenth of the utility", LLAMA, "utility", "RMU", ("original",), more=False, share=0.1),
    Claim("IdkDPO keeps less utility than NPO", PEER, "utility", "IdkDPO", ("NPO",), more=False),
    Claim("RMU forgets worse than NPO", PEER, "ks", "RMU", ("NPO",), more=True),
    Claim(
        "What forgets under attack gives back less than NPO",
        SMOOTH,
        "recovery 100",
        "NPO under Relearn",
        ("NPO",),
        more=False,
    ),
    Claim(
        "A guard on the step keeps more utility than NPO alone",
        "Geometric-disentanglement Unlearning, 2511.17100",
        "utility",
        "NPO, StepGuard of rank 1",
        ("NPO",),
        more=True,
    ),
    Claim("WGA keeps more of what must stay than GA", WEIGHTED, "retain", "WGA", ("GA",), more=True),
    Claim(
        "UNDIAL keeps more of what must stay than GA and NPO", DISTILLED, "retain", "UNDIAL", ("GA", "NPO"), more=True
    ),
    Claim("JensUn keeps more utility than NPO", JENSEN, "utility", "JensUn", ("NPO",), more=True),
    Claim(
        "Without a gradient's largest directions less comes back than after NPO",
        SELECTED,
        "recovery 100",
        "NPO, SpectralCollapse",
        ("NPO",),
        more=False,
    ),
)


@dataclass(frozen=True)
class Bound:
    """A measure of several methods that was said to be above a number."""

    words: str
    source: str
    measure: str
    least: float

    def checked(
        self, values: Mapping[str, Mapping[str, Sequence[float | None]]], methods: Sequence[str]
    ) -> dict[str, Any]:
        """By how many methods' intervals."""
        found = {name: values.get(name, {}).get(self.measure, [None]) for name in methods}
        there = {name: ends for name, ends in found.items() if None not in ends}
        above = [name for name, (_, low, _) in there.items() if low > self.least]  # type: ignore[operator]
        below = [name for name, (_, _, high) in there.items() if high < self.least]  # type: ignore[operator]
        verdict = "held" if len(above) == len(there) else "did not hold" if below else "undecided"
        return {
            "claim": self.words,
            "source": self.source,
            "measure": self.measure,
            "verdict": verdict if there else "not asked",
            "above": above,
            "below": below,
        }


BOUNDS = (
    Bound(
        "Relearning or 4 bits bring back more than half of what a plain method took",
        f"{JOGGED}; {QUANTISED}",
        "raw recovery",
        0.5,
    ),
)
