"""``classify``: which classifier few labels give, with or without images that join them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
