"""What `scaling.py` measures, fits and estimates."""
