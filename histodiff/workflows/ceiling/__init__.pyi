from .command import ceiling as ceiling
from .command import estimate as estimate
from .config import CeilingConfig as CeilingConfig
