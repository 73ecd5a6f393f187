from __future__ import annotations

from robustness_parts._fit import trainer
from robustness_parts._judges import READOUT
from robustness_parts._setting import Rows, Setting
from torch import nn

from lightning_unlearn import FinetuneFirst, ForgetRetainData, UnlearningModule

AUTHOR = 20


def taught(setting: Setting, rows: Rows, seed: int) -> nn.Module:
    """The network, taught these rows in this order of authors."""
    # `FinetuneFirst` teaches all data, so where they are cut in two means nothing.
    first, others = setting.data(rows[:AUTHOR]), setting.data(rows[AUTHOR:])
    module = UnlearningModule(setting.start(seed), readout=READOUT)
    data = ForgetRetainData(retain=others, forget=first)  # type: ignore[arg-type]  # see `DataSource`
    trainer(setting, 0, [FinetuneFirst(**setting.teach, seed=seed)]).fit(module, datamodule=data)  # in `setup`
    return module.network.to(setting.device)
