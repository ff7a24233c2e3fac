from .command import classify as classify
from .command import estimate as estimate
from .config import ClassifyConfig as ClassifyConfig
