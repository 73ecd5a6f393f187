from __future__ import annotations

from inspect import isclass
from pydoc import locate
from typing import Any


def merged(base: Any, override: Any) -> Any:
    """Lay ``override`` over ``base``: mappings are merged key by key; other values, also lists, are replaced.

    If both name a class, the base's ``init_args`` are kept if the override's class is the same one or a subclass. Another
    class starts without them: ``beta`` of one objective is not ``beta`` of the next. Arguments without ``class_path`` belong
    to the class that the base names.

    Example:
        >>> base = {"class_path": "NPO", "init_args": {"beta": 0.1}}
        >>> merged(base, {"beta": 0.5})
        {'class_path': 'NPO', 'init_args': {'beta': 0.5}}
        >>> merged(base, {"class_path": "SimNPO"})
        {'class_path': 'SimNPO'}
    """
    if not isinstance(base, dict) or not isinstance(override, dict):
        return override
    if "class_path" in override:
        if not _takes_the_arguments_of(str(base.get("class_path")), str(override["class_path"])):
            return override
    # The short form without `class_path`: all keys of the override are arguments.
    elif "class_path" in base and "init_args" not in override:
        override = {"init_args": override}
    return {**base, **{key: merged(base[key], value) if key in base else value for key, value in override.items()}}


def _takes_the_arguments_of(old: str, new: str) -> bool:
    """Whether ``new`` is ``old`` under any of its names, or a subclass, whose arguments mean the same."""
    if old == new:
        return True
    if "." not in old or "." not in new:  # the bare name of a class, as the parser takes it
        return old.rpartition(".")[2] == new.rpartition(".")[2]
    old_class, new_class = locate(old), locate(new)
    return isclass(old_class) and isclass(new_class) and issubclass(new_class, old_class)
