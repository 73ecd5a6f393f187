from __future__ import annotations

from pathlib import Path

from lightning_unlearn.runtime._files import remove_leftovers, temporary_name


def writable_folder(folder: str | Path) -> Path:
    """Make ``folder``, make sure that files can be written there, and remove what killed processes left half written.

    Raises:
        OSError: If they cannot.
    """
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        # Under a name that the next start recognises, should this process be killed right here.
        probe = path / temporary_name("writable")
        try:
            probe.write_bytes(b"\n")  # a byte, since a full disk still takes empty files
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"`folder` should be a folder that can be written. Found `{path}`: {error}. Choose another one."
        ) from error
    return path
