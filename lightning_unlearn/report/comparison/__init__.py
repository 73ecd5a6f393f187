"""Several reports side by side."""

from lightning_unlearn.report.comparison._compare import Compared, Comparison, compare
from lightning_unlearn.report.comparison._requests import Requests, compare_requests
from lightning_unlearn.report.comparison._show import print_comparison, save_comparison

__all__ = ["Compared", "Comparison", "Requests", "compare", "compare_requests", "print_comparison", "save_comparison"]
