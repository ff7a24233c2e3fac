"""Imported once by the server that ``gang_processes`` forks its processes from."""

import importlib

import tests.support.gang_processes  # noqa: F401
from histodiff.training.deepspeed_engine import _import_deepspeed

_import_deepspeed("cpu")
# every new engine of ZeRO imports it, and with it torch's compiler
importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
