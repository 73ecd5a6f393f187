"""From observations to a report: pairing, intervals, gates, recoveries and the verdict."""

from lightning_unlearn.report.analysis._across_seeds import AcrossSeeds, across_seeds, median_steps_across
from lightning_unlearn.report.analysis._assess import assess
from lightning_unlearn.report.analysis._benchmarks import with_benchmarks
from lightning_unlearn.report.analysis._binary import share_interval
from lightning_unlearn.report.analysis._degrees import harmonic_mean, symmetric_degree
from lightning_unlearn.report.analysis._effort import Steps, area_under_recovery, median_steps, steps_to_recover
from lightning_unlearn.report.analysis._environment import environment
from lightning_unlearn.report.analysis._front import pareto_front
from lightning_unlearn.report.analysis._held_out import HeldOut, held_out_worst
from lightning_unlearn.report.analysis._lm_eval import read_lm_eval
from lightning_unlearn.report.analysis._recorded import recorded
from lightning_unlearn.report.analysis._statistics import (
    adjusted_recovery_rate,
    percentile_interval,
    recovery_rate,
    resampled_means,
    retained_knowledge,
)
from lightning_unlearn.report.analysis._studentised import studentised_interval
from lightning_unlearn.report.analysis._tests import chance_of_more, false_discovery_rates
from lightning_unlearn.report.analysis._thinned import add_point
from lightning_unlearn.report.analysis._two_way import two_way_interval

__all__ = [
    "AcrossSeeds",
    "HeldOut",
    "Steps",
    "across_seeds",
    "add_point",
    "adjusted_recovery_rate",
    "area_under_recovery",
    "assess",
    "chance_of_more",
    "environment",
    "false_discovery_rates",
    "harmonic_mean",
    "held_out_worst",
    "median_steps",
    "median_steps_across",
    "pareto_front",
    "percentile_interval",
    "read_lm_eval",
    "recorded",
    "recovery_rate",
    "resampled_means",
    "retained_knowledge",
    "share_interval",
    "steps_to_recover",
    "studentised_interval",
    "symmetric_degree",
    "two_way_interval",
    "with_benchmarks",
]
