from .command import autoencoder as autoencoder
from .command import estimate as estimate
from .config import AutoencoderConfig as AutoencoderConfig
