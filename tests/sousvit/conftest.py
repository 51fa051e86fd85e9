"""Makes ``hostile`` and ``data_forms`` importable for the tests of this folder."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent / "data")]
