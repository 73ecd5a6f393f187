from __future__ import annotations

import re
from inspect import isclass
from pydoc import ErrorDuringImport, locate

_REFUSED = re.compile(r"Import path ([\w.]+) does not correspond to a subclass of \w+")


def way_out_of_mixing(message: str) -> str:
    """What to do about each class that the parser refused because it is of ``pytorch_lightning``; else nothing."""
    refused = dict.fromkeys(path for path in _REFUSED.findall(message) if _is_of_other_package(path))
    return "".join(
        f"\n`{path}` is of `pytorch_lightning`, and the trainer of this command is of `lightning.pytorch`: the same code, "
        "but other classes. Import it from `lightning.pytorch`; or keep `pytorch_lightning`, in a script of your own: "
        "`pytorch_lightning.cli.LightningCLI()`, with `Unlearn` and the others under `trainer.callbacks`."
        for path in refused
    )


def _is_of_other_package(path: str) -> bool:
    try:
        found = locate(path)
    except ErrorDuringImport:
        return False
    packages = {base.__module__.partition(".")[0] for base in found.__mro__} if isclass(found) else set()
    return "pytorch_lightning" in packages and "lightning" not in packages  # ours are of both
