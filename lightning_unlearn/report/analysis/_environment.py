"""Where a report was made."""

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def environment() -> dict[str, Any]:
    """When, and with which versions, a report is made. Never a host name, a user or a path.

    Example:
        >>> sorted(environment())
        ['created_utc', 'lightning', 'package_version', 'platform', 'python', 'torch']
    """
    return {
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "package_version": _version("lightning-unlearn"),
        "torch": _version("torch"),
        "lightning": _version("lightning"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
