"""TOFU: the metrics of the benchmark, as an audit and as functions."""

from lightning_unlearn.audits.tofu._alternatives import alternatives, tofu_probes
from lightning_unlearn.audits.tofu._scores import tofu_scores
from lightning_unlearn.audits.tofu._summary import tofu_summary
from lightning_unlearn.audits.tofu._tofu import TOFU

__all__ = ["TOFU", "alternatives", "tofu_probes", "tofu_scores", "tofu_summary"]
