"""Open-unlearning beside us: what it needs to run on our model and data, and its logs in our table."""
