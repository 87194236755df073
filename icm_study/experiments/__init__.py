"""Experiments: what is fitted, chosen and measured, as tidy tables."""
