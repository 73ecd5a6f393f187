"""The parts of `benchmarks/which_weights.py`: which selectors, the judges of both, and what is made of their numbers."""
