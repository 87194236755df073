"""Invariant causal mechanisms for vision-language models (CLIP-ICM, arXiv 2405.15289)."""
