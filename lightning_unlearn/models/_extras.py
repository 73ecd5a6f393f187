from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec


def require(package: str, *, purpose: str, pip: str | None = None) -> None:
    """Say what to install when an optional dependency is missing.

    Args:
        package: Its import name; it is looked for, not imported.
        purpose: What needs it, the subject of the message.
        pip: What to hand to ``pip install``. Defaults to ``package``.

    Example:
        >>> require("torch", purpose="`import torch`")
    """
    if find_package(package) is None:
        raise ModuleNotFoundError(f"{purpose} needs the package `{package}`: `pip install {pip or package}`.")


def find_package(name: str) -> ModuleSpec | None:
    """Where a package is, without running any of its code; ``None`` if it is not installed.

    ``importlib.util.find_spec("a.b")`` imports ``a``.

    Example:
        >>> find_package("torch.nn").name, find_package("no_such_package.nn")
        ('torch.nn', None)
    """
    top, *inner = name.split(".")
    if not all(part.isidentifier() for part in (top, *inner)) or top == "__main__":
        return None
    spec, full = find_spec(top), top
    for part in inner:
        full = f"{full}.{part}"
        spec = None if spec is None else PathFinder.find_spec(full, list(spec.submodule_search_locations or []))
    return spec
