"""What `StepGuard` and `SubspaceGuard` hold together in a step, in bytes: a Llama of random weights, on the CPU.

    OMP_NUM_THREADS=2 python benchmarks/two_guards_memory.py --label after
    PYTHONPATH=/path/to/another/checkout python benchmarks/two_guards_memory.py --label before

Counted are the storages of all living tensors, each once, at the moment when the optimizer has stepped and no guard has
corrected the step yet: weights, gradients, optimizer state, directions and copies are all there. The peak of the resident
set is of the whole process, activations and what the allocator keeps included. Each variant runs in its own process.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "two_guards_memory.json"
VARIANTS = ("both", "none")


def measure(variant: str) -> dict[str, float]:
    import lightning.pytorch as pl
    import torch
    from torch.utils.data import DataLoader
    from transformers import LlamaConfig, LlamaForCausalLM

    from lightning_unlearn import Bounded, GradientAscent, StepGuard, SubspaceGuard, Unlearn
    from lightning_unlearn.guards import InputSubspace

    class Language(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            sizes = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8}
            self.network = LlamaForCausalLM(LlamaConfig(vocab_size=16384, **sizes))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.network(**batch).loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-5)

    def rows(seed: int) -> DataLoader[Any]:
        tokens = torch.randint(0, 16384, (8, 16), generator=torch.Generator().manual_seed(seed))
        return DataLoader([{"input_ids": t, "labels": t, "attention_mask": torch.ones_like(t)} for t in tokens], 2)

    class Counted(pl.Callback):
        """Stands first, so that its hook comes before those of guards."""

        def __init__(self) -> None:
            self.held: list[int] = []

        def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
            def count(*args: Any) -> None:
                every = (t for t in gc.get_objects() if isinstance(t, torch.Tensor))
                sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in every}
                self.held.append(sum(sizes.values()))

            trainer.optimizers[0].register_step_post_hook(count)

    pl.seed_everything(0, verbose=False)
    guards = [StepGuard(), SubspaceGuard(InputSubspace(rank=8), batches=1)] if variant == "both" else []
    counted, module = Counted(), Language()
    unlearn = Unlearn(Bounded(GradientAscent(), bound=12.0), forget=rows(2))
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    callbacks = [counted, unlearn, *guards]
    pl.Trainer(max_steps=2, accelerator="cpu", callbacks=callbacks, enable_model_summary=False, **silent).fit(
        module, rows(1)
    )
    return {
        "weights_mb": round(sum(p.nbytes for p in module.parameters()) / 1e6, 1),
        "held_mb": round(max(counted.held) / 1e6, 1),
        "peak_resident_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1),
    }


def commit() -> str:
    """Of the checkout whose package is measured; with a plus if it was changed since."""
    import lightning_unlearn

    git = ["git", "-C", str(Path(lightning_unlearn.__file__).parents[1])]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "lightning_unlearn"], capture_output=True, text=True)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--label", default="after", help="under which name to keep the result")
    parser.add_argument("--variant", choices=VARIANTS, help="measure one, in this process, and print it")
    arguments = parser.parse_args()
    if arguments.variant is not None:
        print(json.dumps(measure(arguments.variant)))
        return
    found: dict[str, Any] = {"commit": commit()}
    for variant in VARIANTS:
        command = [sys.executable, __file__, "--variant", variant]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        found[variant] = json.loads(lines[-1])
        print(f"{variant:16s} {found[variant]}")
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps({**results, arguments.label: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
