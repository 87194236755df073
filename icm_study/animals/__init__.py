"""The animal world: silhouettes, latent factors, rendered images."""
