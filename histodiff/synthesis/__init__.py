"""Sampling of images: guided draws of the denoiser, decoded, with their provenance."""
