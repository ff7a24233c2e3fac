from .command import estimate as estimate
from .command import select as select
from .config import SelectConfig as SelectConfig
