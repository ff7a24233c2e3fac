from .command import Exported as Exported
from .command import export as export
from .config import ExportConfig as ExportConfig
