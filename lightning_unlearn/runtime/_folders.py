from __future__ import annotations

import os
from pathlib import Path


def writable_folder(folder: str | Path) -> Path:
    """Make ``folder``, and make sure that files can be written there.

    Raises:
        OSError: If they cannot.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"`folder` should be a folder that can be written. Found `{path}`: {error}. Choose another one."
        ) from error
    return path
