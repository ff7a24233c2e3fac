"""Imported once by the server that ``gang_processes`` forks its processes from."""

import tests.support.gang_processes  # noqa: F401
from histodiff.training.engine import _import_deepspeed

_import_deepspeed("cpu")
