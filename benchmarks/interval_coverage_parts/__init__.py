"""Made-up studies whose truth is known, and how often their intervals hold it."""
