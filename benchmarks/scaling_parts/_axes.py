from __future__ import annotations

from scaling_parts._point import Size

BASE = Size()
# What grows, from what, over which values, and in which ways it is measured.
AXES: dict[str, tuple[Size, tuple[int, ...], tuple[str, ...]]] = {
    "rows": (BASE, (2, 4, 8, 16, 32), ("plain", "ours")),
    "tokens": (BASE, (32, 64, 128, 256, 512), ("plain", "ours")),
    "vocabulary": (BASE, (4096, 8192, 16384, 32768, 65536), ("plain", "ours")),
    "width": (BASE.of(vocabulary=1024), (64, 128, 256, 512), ("plain", "ours")),
    "directions": (BASE.of(width=384, vocabulary=8192, rows=1), (1, 2, 4, 8), ("ours",)),
    "probes": (BASE, (16, 32, 64, 128), ("check",)),
    "attacks": (BASE.of(probes=16), (1, 2, 4, 8), ("check",)),
}
# What is there without any of it, and is taken off before an exponent is fitted.
WITHOUT: dict[str, Size] = {name: AXES[name][0].of(**{name: 0}) for name in ("directions", "attacks")}
