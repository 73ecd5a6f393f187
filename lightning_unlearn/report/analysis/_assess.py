from collections.abc import Mapping, Sequence
from typing import Any

from lightning_unlearn.observation import Failure, Observation
from lightning_unlearn.report.analysis._assessment import Assessment
from lightning_unlearn.report.analysis._bootstrap import Bootstrap
from lightning_unlearn.report.analysis._environment import environment
from lightning_unlearn.report.analysis._leading_metrics import headline_metric, utility_metric
from lightning_unlearn.report.analysis._limits import limits
from lightning_unlearn.report.analysis._membership import membership_rows
from lightning_unlearn.report.analysis._observation_index import ObservationIndex
from lightning_unlearn.report.analysis._recorded import recorded
from lightning_unlearn.report.analysis._summary import summary
from lightning_unlearn.report.schema import RobustnessReport


def assess(
    observations: Sequence[Observation],
    *,
    run: Mapping[str, Any] | None = None,
    models: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    training: Sequence[Mapping[str, Any]] = (),
    warnings: Sequence[str] = (),
    config: str = "",
    definitions: Mapping[str, str] | None = None,
    restored: bool | None = None,
    floors: Mapping[str, float] | None = None,
    headline: str | None = None,
    utility: str | None = None,
    draws: int = 2000,
    seed: int = 0,
    failures: Sequence[Failure] = (),
) -> RobustnessReport:
    """Compute levels, gates, recoveries and the verdict from what was observed.

    An observation's ``subject`` says which model it is of. For the original, the control and the unlearned model, the last
    observation without an attack counts. The verdict is about the unlearned model at that point. For each attack, the last
    step at which it ran counts.

    Args:
        observations: Every observation of the models, in the order they were made.
        run: Added to :func:`environment`; ``run["control"]`` says where the control came from.
        models: See :class:`RobustnessReport`, as for ``data``, ``training``, ``config`` and ``definitions``.
        data: See there.
        training: See there.
        warnings: Shown before those found here.
        config: See there.
        definitions: See there.
        restored: Whether the weights were the same after the attacks as before; None if they were not compared.
        floors: Score of a model that never knew on the forget set, per metric, if there is no control.
        headline: The metric to lead with. Defaults to a bounded one where more means more knowledge.
        utility: The metric that says, on the retain set, whether a model works. Defaults to the headline.
        draws: Number of bootstrap resamples.
        seed: Of the bootstrap.
        failures: Attacks and audits that ended with an error. One that failed on the final model is never a verdict.

    Example:
        >>> who = ["Ada", "Ada", "Ada", "Bo", "Bo", "Bo"]
        >>> def observed(subject, scores, split="forget", **attack):
        ...     value = sum(scores) / len(scores)
        ...     return Observation("probability", split, value, 9, subject, scores=scores, entities=who, **attack)
        >>> int4 = {"attack": "int4", "family": "quant", "point": 4, "unit": "bits"}
        >>> kept = [0.75] * 6
        >>> report = assess([
        ...     observed("original", kept, "retain"), observed("original", [0.75, 1.0, 0.5] * 2),
        ...     observed("unlearned", kept, "retain"), observed("unlearned", [0.25, 0.5, 0.0] * 2),
        ...     observed("unlearned", kept, "retain", **int4), observed("unlearned", [0.5, 0.75, 0.25] * 2, **int4)])
        >>> report.recoveries[0].rho.value, report.recoveries[0].is_verdict
        (0.5, True)
    """
    index = ObservationIndex(list(observations), list(failures))
    # Chosen first: gates, prices and the verdict all refer to these two metrics.
    headline = headline or headline_metric(index)
    utility = utility or utility_metric(index, headline)
    interrupted = str((run or {}).get("interrupted", ""))
    assessment = Assessment(index, utility, Bootstrap(draws, seed), restored, floors or {}, interrupted)
    levels, gates = assessment.levels(), assessment.gates()
    recoveries = assessment.recoveries(gates)
    membership = membership_rows(index, assessment.bootstrap)
    leading = [recovery for recovery in recoveries if recovery.metric == headline]
    made = RobustnessReport(
        run={**environment(), **(run or {})},
        models=dict(models or {}),
        data=dict(data or {}),
        training=[dict(row) for row in training],
        observations=list(observations),
        levels=levels,
        gates=gates,
        recoveries=recoveries,
        summary={
            **summary(assessment, headline, recoveries),
            **({"membership": membership} if membership else {}),
        },
        warnings=[*warnings, *limits(index, levels, gates, leading)],
        config=config,
        definitions=dict(definitions or {}),
        failures=list(failures),
    )
    return recorded(made)
