from __future__ import annotations

import errno
import os
from typing import Any

_CODES = {errno.EACCES, errno.EPERM, errno.EROFS}


def unwritable(error: BaseException | None) -> OSError | None:
    """The error again, with the settings that help, if it or one of its causes is that a place cannot be written.

    Lightning's loggers and checkpoints, and the caches of other packages, raise it as the system does, where they write.

    Example:
        >>> print(unwritable(OSError(errno.EROFS, "Read-only file system", "/there/logs")))  # doctest: +ELLIPSIS
        A folder should be one that can be written. Found `/there/logs`: Read-only file system. ...
        >>> unwritable(OSError(errno.ENOENT, "No such file or directory", "/there/data.jsonl")) is None
        True
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _CODES and _may_be_written(error.filename):
            found = f"`{error.filename}`: {error.strerror}"
            return OSError(f"A folder should be one that can be written. Found {found}. {_WAYS}")
        error = error.__cause__ or error.__context__
    return None


def _may_be_written(place: Any) -> bool:
    return place is not None and not os.path.isfile(place)  # a file that is there was perhaps to be read


_WAYS = (
    "For the demo set `--folder=FOLDER`; for reports `--report.folder=FOLDER`; for logs `--trainer.logger.init_args.save_dir"
    "=FOLDER`, or `--trainer.logger=false`; for checkpoints and all else that Lightning writes `--trainer.default_root_dir"
    "=FOLDER`; for downloads the environment variable `HF_HOME`; for converted GGUF files `LIGHTNING_UNLEARN_CACHE`; for "
    "fonts `MPLCONFIGDIR`."
)
