"""What `gpu_cost.py` measures: a clock over steps, networks of random weights, steps by hand, and ours."""
