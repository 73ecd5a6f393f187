"""What is refused in a Hugging Face trainer, by name and with the way out."""

from __future__ import annotations

from typing import Any


def refuse_hugging_face(trainer: Any) -> None:
    """Refuse settings of a ``transformers.Trainer`` under which a promise could not be kept.

    Raises:
        TypeError: If it is no such trainer.
        NotImplementedError: If gradients are out of reach, still scaled, or sharded; or if the model is built anew.
    """
    if not all(hasattr(trainer, name) for name in ("accelerator", "callback_handler", "training_step", "args")):
        raise TypeError(
            f"`trainer` should be a `transformers.Trainer`, or one of TRL's. Found `{type(trainer).__name__}`. Lightning's "
            "own `Trainer` takes `callbacks=[Unlearn(...)]` as they are."
        )
    for found, why, way_out in _problems(trainer):
        raise NotImplementedError(
            f"`UnlearnTrainerCallback` should find whole, unscaled gradients in `p.grad` before they are clipped, of one "
            f"model. Found {found}: {why}. {way_out}"
        )


def _problems(trainer: Any) -> list[tuple[str, str, str]]:
    args, accelerator = trainer.args, trainer.accelerator
    optim = str(getattr(args.optim, "value", args.optim))
    elsewhere = "Use DDP, or `lightning.pytorch.Trainer` with FSDP2"
    checks = [
        (trainer.is_deepspeed_enabled, "DeepSpeed", "it keeps gradients inside its engine", f"{elsewhere}."),
        (trainer.is_fsdp_enabled, "FSDP", "it was not tried here", f"{elsewhere}."),
        (
            accelerator.scaler is not None,
            "`fp16=True`",
            "the gradient is unscaled where it is clipped, too late for ours",
            "Use `bf16=True`.",
        ),
        (
            args.n_gpu > 1,
            f"`n_gpu = {args.n_gpu}`",
            "`DataParallel` copies the model in each step",
            "Use `torchrun`, or let it see one GPU with `CUDA_VISIBLE_DEVICES=0`.",
        ),
        (
            getattr(trainer.model, "hf_device_map", None) is not None
            and len(set(trainer.model.hf_device_map.values())) > 1,
            "`device_map`",
            "the model is spread over devices, which was not tried",
            "Load it onto one.",
        ),
        (
            (getattr(trainer.model, "tp_size", None) or 1) > 1,
            "tensor parallelism",
            "it was not tried here",
            "Use `lightning.pytorch.Trainer` with `ModelParallelStrategy`.",
        ),
        (
            any(kind in optim for kind in ("lomo", "layerwise")),
            f"`optim = {optim!r}`",
            "it steps inside the backward pass",
            "Use `adamw_torch`.",
        ),
        (
            args.torch_compile,
            "`torch_compile=True`",
            "it was not tried here",
            "Leave it out, or use Lightning's trainer.",
        ),
        (
            getattr(accelerator, "parallelism_config", None) is not None,
            "`parallelism_config`",
            "it was not tried here",
            f"{elsewhere}.",
        ),
        (
            trainer.model_init is not None,
            "`model_init`",
            "the model is built anew in each `train()`",
            "Give `model=`.",
        ),
        (
            args.auto_find_batch_size,
            "`auto_find_batch_size=True`",
            "training starts over when memory runs out",
            "Set `per_device_train_batch_size`.",
        ),
    ]
    return [(found, why, way_out) for is_so, found, why, way_out in checks if is_so]
