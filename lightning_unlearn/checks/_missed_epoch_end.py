from __future__ import annotations

import lightning.pytorch as pl


def missed_epoch_end(trainer: pl.Trainer) -> bool:
    """Whether a resumed fit goes on after the end of an epoch that the interrupted one did not come to.

    Its checkpoint was made after the epoch's last step, and before its end. Lightning then takes the epoch for done, and
    calls ``on_train_epoch_end`` for it in neither fit. Asked in ``on_train_start``.
    """
    loop = trainer.fit_loop
    within = loop.restarted_mid_epoch and loop.epoch_loop.restarted_on_train_batch_end
    return bool(within and loop.epoch_loop.batch_progress.is_last_batch)
