from __future__ import annotations

from pydoc import locate
from typing import Any

from lightning.pytorch.cli import _InstantiatorFn
from typing_extensions import override


class OwnHyperparameters(_InstantiatorFn):
    """Give the hyper-parameters under ``model:`` or ``data:`` to the object they describe, and to no other.

    LightningCLI gives them to every LightningModule and datamodule it builds, also to nested ones. Then ``self.hparams`` of
    a nested object are not its own arguments, and a forget set built from them is the retain set.
    """

    @override
    def __call__(self, class_type: Any, *args: Any, applied_instantiation_links: dict[str, Any], **kwargs: Any) -> Any:
        """Build one object."""
        if not self._describes(class_type, kwargs):
            return class_type(*args, **kwargs)
        return super().__call__(class_type, *args, applied_instantiation_links=applied_instantiation_links, **kwargs)

    def _describes(self, class_type: Any, arguments: dict[str, Any]) -> bool:
        """Whether class and plain arguments are those of the configuration. Other arguments are objects by now."""
        self.cli._dump_config()  # Lightning makes the dump when it is first needed
        top = self.cli.config_dump.get(self.key) or {}
        if locate(top.get("class_path", "")) is not class_type:
            return False
        written = top.get("init_args", {})
        plain = (str, int, float, bool, type(None))
        return all(written.get(name, value) == value for name, value in arguments.items() if isinstance(value, plain))
