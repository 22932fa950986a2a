"""The configuration: defaults, one YAML file per experiment, and the command line."""

from config.loader import load_config, load_text
from config.node import CfgNode

__all__ = ["CfgNode", "load_config", "load_text"]
