"""Encoders: images and texts to embeddings, by name."""
