"""``export``: a denoiser as a folder that plain diffusers opens, with a model card."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
