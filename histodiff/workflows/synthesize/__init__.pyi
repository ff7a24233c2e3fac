from .command import estimate as estimate
from .command import synthesize as synthesize
from .config import SynthesizeConfig as SynthesizeConfig
