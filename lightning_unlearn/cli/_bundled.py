from __future__ import annotations

from importlib.resources import files
from pathlib import Path

PREFIX = "bundled:"
_FOLDER = Path(str(files("lightning_unlearn") / "configs"))


def bundled_configs() -> dict[str, Path]:
    """The files of the configurations that come with the package, by the name that follows ``bundled:``.

    Example:
        >>> list(bundled_configs())[:3]
        ['base', 'bucket_margin', 'plain']
    """
    paths = sorted(_FOLDER.rglob("*.yaml"), key=lambda path: (path.parent != _FOLDER, path.name))
    return {path.stem: path for path in paths}


def bundled_config(name: str) -> Path:
    """The file of one of :func:`bundled_configs`, by name or by path below the folder (``objectives/npo``).

    Raises:
        FileNotFoundError: If there is no such configuration.

    Example:
        >>> bundled_config("npo") == bundled_config("objectives/npo")
        True
    """
    by_name = bundled_configs()
    by_path = {path.relative_to(_FOLDER).with_suffix("").as_posix(): path for path in by_name.values()}
    path = {**by_path, **by_name}.get(name.removeprefix(PREFIX).removesuffix(".yaml"))
    if path is None:
        raise FileNotFoundError(
            f"A bundled configuration should be one of {', '.join(by_name)}. Found `{name}`. "
            "`lightning-unlearn configs` says what each of them does."
        )
    return path


def description(path: Path) -> str:
    """What a configuration does: its first line, a comment."""
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
