"""The theory, on models in which the truth is known."""
