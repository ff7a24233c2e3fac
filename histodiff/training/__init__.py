"""Training machinery: a plain loop for small models, and the DeepSpeed engine for the denoiser."""

from histodiff.training.fit import FitConfig, FitRecord, fit

__all__ = ["FitConfig", "FitRecord", "fit"]
