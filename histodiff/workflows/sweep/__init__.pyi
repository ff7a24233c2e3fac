from .command import estimate as estimate
from .command import sweep as sweep
from .config import SweepConfig as SweepConfig
