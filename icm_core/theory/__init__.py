"""Causal models in which the truth is known, and the paper's propositions checked on them."""
