# The tools run from any folder, without the project being installed: its root comes first on the path.
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
