"""Tiny models of every causal-LM family of transformers, and what is measured of each."""
