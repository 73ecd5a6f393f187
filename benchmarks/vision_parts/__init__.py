"""The parts of `benchmarks/vision.py`: settings, kinds of requests, fits, judges, and what is made of their numbers."""
