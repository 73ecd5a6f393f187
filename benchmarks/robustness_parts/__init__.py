"""The parts of `benchmarks/robustness.py`: settings, methods, fits, judges, and what is made of their numbers."""
