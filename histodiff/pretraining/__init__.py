"""Pre-training: the autoencoder and the unconditional denoiser."""
