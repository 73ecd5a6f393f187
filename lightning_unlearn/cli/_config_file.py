from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile
from jsonargparse import Path as ConfigPath
from typing_extensions import override

from lightning_unlearn.cli._bundled import PREFIX, bundled_config, bundled_configs
from lightning_unlearn.cli._merge import merged
from lightning_unlearn.cli._yaml import dump_yaml, load_yaml


def read_config(name: str | Path) -> dict[str, Any]:
    """Read a configuration, merged into its bases.

    At its top level a configuration may have ``base: FILE``, relative to itself, or ``base: bundled:NAME``. Its own settings
    win over those of its base. A base may have a base.

    Args:
        name: A file, or ``bundled:`` and the name of one that comes with the package.

    Raises:
        FileNotFoundError: If there is no such file or bundled configuration.
        ValueError: If a file cannot be read, is no mapping, has a key twice, or is its own base.

    Example:
        >>> read_config("bundled:npo")["unlearn"]
        {'objective': {'class_path': 'lightning_unlearn.objectives.NPO'}}
    """
    return _read(_path_of(str(name), folder=Path()), above=())


class ConfigFile(ActionConfigFile):  # type: ignore[misc]  # untyped
    """``--config`` that also takes ``bundled:NAME``, and files with a ``base``."""

    @override
    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Merge first, so that the parser, and what it saves, sees one whole configuration."""
        path = str(bundled_config(values) if str(values).startswith(PREFIX) else values)
        # If it is no file, it is a configuration as text, or a URL: the parser knows both.
        if not os.path.isfile(path) or "base" not in (_load(Path(path)) or {}):
            super().__call__(parser, cfg, path, option_string)
            return
        text = dump_yaml(read_config(path))
        # Relative paths in the configuration, such as `unlearn: unlearn.yaml`, are relative to its file.
        with ConfigPath(path, mode="fr").relative_path_context():
            super().__call__(parser, cfg, text, option_string)


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if path in above:
        circle = " -> ".join(one.name for one in (*above[above.index(path) :], path))
        raise ValueError(f"`base` should lead to a configuration that has none. Found a circle: {circle}.")
    settings = _load(path)
    if not isinstance(settings, dict):
        raise ValueError(f"A configuration should be a mapping. Found {type(settings).__name__} in {path}.")
    base = settings.pop("base", None)
    if base is None:
        return settings
    if not isinstance(base, str):
        raise ValueError(f"`base` should be one file, or `bundled:` and a name. Found `base = {base!r}` in {path}.")
    whole: dict[str, Any] = merged(_read(_path_of(base, path.parent), (*above, path)), settings)
    return whole


def _path_of(name: str, folder: Path) -> Path:
    if name.startswith(PREFIX):
        return bundled_config(name)
    path = (folder / name).resolve()
    if not path.is_file():
        raise FileNotFoundError(
            f"A configuration should be a file, or `bundled:` and one of {', '.join(bundled_configs())}. "
            f"Found `{name}`, and no file {path}."
        )
    return path


def _load(path: Path) -> Any:
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"A configuration should be YAML that can be read. Found, in {path}: {why}") from error
