"""``select``: which samples may join a training set, by which rules, and why not."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
