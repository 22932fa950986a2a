"""Optimizers and schedules; each file here is found by itself."""

from utils.registry import import_submodules

import_submodules(__name__, __path__)
