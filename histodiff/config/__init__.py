"""Typed configuration: the base class and the loader. Owners declare their own configs."""

from histodiff.config.base import Added, Config, Location, identity
from histodiff.config.loader import find_config, load_config, parse_config

__all__ = ["Added", "Config", "Location", "find_config", "identity", "load_config", "parse_config"]
