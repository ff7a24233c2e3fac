from .command import estimate as estimate
from .command import tile as tile
from .config import TileConfig as TileConfig
