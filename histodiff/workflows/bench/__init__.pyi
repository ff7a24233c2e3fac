from .command import BENCHES as BENCHES
from .command import bench as bench
