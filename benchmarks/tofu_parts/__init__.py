"""Parts of `benchmarks/tofu.py`; units, fits, attacks and the budget are those of `robustness_parts`."""
