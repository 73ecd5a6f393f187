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
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"{purpose} needs the package `{package}`: `pip install {pip or package}`.")
