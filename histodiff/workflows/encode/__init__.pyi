from .command import encode as encode
from .config import EncodeConfig as EncodeConfig
from .estimation import estimate as estimate
