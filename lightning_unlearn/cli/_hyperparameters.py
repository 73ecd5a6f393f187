from __future__ import annotations

from pydoc import locate
from typing import Any

from lightning.pytorch.cli import _InstantiatorFn
from typing_extensions import override


class OwnHyperparameters(_InstantiatorFn):
    """Give the hyper-parameters under ``model:`` or ``data:`` to the object they describe, and to no other.

    LightningCLI gives them to every LightningModule and datamodule it builds, nested ones included. The ``self.hparams`` of
    a nested object then are not its own arguments, and a forget set built from them is the retain set.
    """

    @override
    def __call__(self, class_type: Any, *args: Any, applied_instantiation_links: dict[str, Any], **kwargs: Any) -> Any:
        """Build one object."""
        if not self._describes(class_type, kwargs):
            return class_type(*args, **kwargs)
        return super().__call__(class_type, *args, applied_instantiation_links=applied_instantiation_links, **kwargs)

    def _describes(self, class_type: Any, arguments: dict[str, Any]) -> bool:
        """Compare class and plain arguments with the configuration; other arguments have been built into objects."""
        self.cli._dump_config()
        top = self.cli.config_dump.get(self.key) or {}
        if locate(top.get("class_path", "")) is not class_type:
            return False
        written = top.get("init_args", {})
        plain = (str, int, float, bool, type(None))
        return all(written.get(name, value) == value for name, value in arguments.items() if isinstance(value, plain))
