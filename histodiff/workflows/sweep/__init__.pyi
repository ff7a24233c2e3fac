from .command import estimate as estimate
from .command import sweep as sweep
from .grid import SweepConfig as SweepConfig
