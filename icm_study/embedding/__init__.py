"""Embeddings: computed once, kept on disk, opened as labelled tables."""
