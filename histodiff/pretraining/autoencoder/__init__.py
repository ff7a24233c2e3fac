"""Training of the KL autoencoder, or of its decoder alone, on the engine of pre-training."""
