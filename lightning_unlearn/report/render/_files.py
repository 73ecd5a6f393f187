"""Files that are written whole or not at all."""

from pathlib import Path
from uuid import uuid4


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that no reader, and no crash, ever finds half of it.

    Args:
        path: Where to; its folder is made if it is missing.
        content: What to write.

    Raises:
        OSError: If the folder cannot be written.
    """
    # In the same folder, since renaming is atomic within one file system only.
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        _remove(temporary)
        raise OSError(
            f"The report's folder should be writable. Found `{error.strerror}` when writing `{path}`. "
            "The report is still in memory: save it elsewhere with `save(report, folder)`."
        ) from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the folder itself is what failed: nothing was left in it
        return
