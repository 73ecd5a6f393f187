"""Where real benchmark data lie: not part of this repository."""

from __future__ import annotations

import os
from pathlib import Path

# As seen from where tests are collected: each then runs in a folder of its own.
DATA = Path(os.environ.get("LIGHTNING_UNLEARN_DATA", Path(__file__).parents[2] / "shared" / "data")).resolve()
