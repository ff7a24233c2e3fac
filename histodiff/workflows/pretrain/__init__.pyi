from .command import estimate as estimate
from .command import pretrain as pretrain
from .config import PretrainConfig as PretrainConfig
