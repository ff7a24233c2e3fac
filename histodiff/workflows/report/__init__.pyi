from .command import ReportConfig as ReportConfig
from .command import estimate as estimate
from .command import report as report
