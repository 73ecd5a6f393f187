"""Kill a fit at forty moments, resume it, and compare it with one that ran through.

    python benchmarks/kill.py                  # all moments that results/kill.json does not have of this commit
    python benchmarks/kill.py --afresh         # all of them
    python benchmarks/kill.py --only restore   # those with this word in their place

A moment is the n-th call of a named function. The process that runs the fit is sent SIGKILL as that call begins: nothing is
flushed, no handler runs. Then the same script runs again with `ckpt_path="last"`, as a scheduler would do it; where no
checkpoint was made yet, this starts afresh. Compared with the uninterrupted run: weights and buffers bit for bit, every
observation, `report.json` but for times, and that nothing half written is left in any folder.

The fit: a small network with dropout and BatchNorm, taught first (`FinetuneFirst` with a control, kept on disk), NPO with a
reference kept on disk, a guard with a history, relearning and rounding in the check, checkpoints within epochs and at
their ends.
Lightning keeps no random states in checkpoints and starts the epoch of a plain loader anew, so the module seeds its dropout
by the step, and the data have an `order`. Writes `benchmarks/results/kill.json`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn import (
    NPO,
    CachedLogLikelihood,
    FinetuneFirst,
    ForgetRetainData,
    Quantize,
    RandomOrder,
    RecoveryCheck,
    Relearn,
    StepGuard,
    Unlearn,
    WriteReport,
)
from lightning_unlearn.guards.directions import History

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "kill.json"
TIMES = ("wall_s", "created_utc")  # of the report's run: they are those of the machine


class Moment(NamedTuple):
    """Just before the ``call``-th call of ``function``, given as ``module:name``."""

    place: str
    function: str
    call: int


PACKAGE = "lightning_unlearn"
UNLEARN = f"{PACKAGE}.forgetting._unlearn:Unlearn"
CHECK = f"{PACKAGE}.checks._recovery_check:RecoveryCheck"
IO = "lightning.fabric.plugins.io.torch_io:_atomic_save"
SAVE = "lightning.pytorch.callbacks.model_checkpoint:ModelCheckpoint._save_checkpoint"
MOMENTS = [
    Moment("teaching, a step", "torch.optim.adamw:AdamW.step", 3),
    Moment("teaching, the control is kept", f"{PACKAGE}.finetuning._kept_weights:save_model", 1),
    Moment("teaching, the control's file gets its name", "pathlib:Path.replace", 1),
    Moment("teaching, the taught weights are kept", f"{PACKAGE}.finetuning._kept_weights:save_model", 2),
    Moment("teaching, the taught weights go to disk", "os:fsync", 3),
    Moment("cache, before anything", f"{PACKAGE}.references._cache_file:CacheFile.append", 1),
    Moment("cache, a line in the middle", f"{PACKAGE}.references._cache_file:CacheFile.append", 3),
    Moment("cache, within a line", "os:write", 2),
    Moment("check of the original", f"{CHECK}._check", 1),
    Moment("check of the control", f"{CHECK}._observe_control", 1),
    Moment("a batch arrives", f"{UNLEARN}.on_train_batch_start", 3),
    Moment("backward of the retain loss", f"{UNLEARN}.on_before_backward", 6),
    Moment("before the merge", f"{UNLEARN}.on_before_optimizer_step", 4),
    Moment("forget loss", f"{PACKAGE}.forgetting._forget_loss:ForgetLoss.__call__", 8),
    Moment("gradients are merged", f"{PACKAGE}.forgetting._merger:Merger.merge_", 11),
    Moment("the step is taken", "torch.optim.sgd:SGD.step", 9),
    Moment("the guard corrects the step", f"{PACKAGE}.guards._guarded_step:GuardedStep.correct_", 9),
    Moment("the step is over", f"{UNLEARN}.on_train_batch_end", 11),
    Moment("the last step of an epoch", f"{UNLEARN}.on_train_batch_end", 8),
    Moment("first checkpoint, its beginning", SAVE, 1),
    Moment("checkpoint, states are collected", f"{UNLEARN}.state_dict", 5),
    Moment("checkpoint, observations are collected", f"{CHECK}.state_dict", 7),
    Moment("checkpoint, bytes are written", IO, 3),
    Moment("checkpoint, the file gets its name", "shutil:move", 6),
    Moment("checkpoint, the older one is removed", SAVE.replace("_save_checkpoint", "_save_last_checkpoint"), 3),
    Moment("last checkpoint, its beginning", SAVE, 17),
    Moment("check at an epoch's end, its beginning", f"{CHECK}._check", 2),
    Moment("check at an epoch's end, relearning", f"{PACKAGE}.attacks._relearn:Relearn._train", 3),
    Moment("check at an epoch's end, rounding", f"{PACKAGE}.attacks._rounding:_round_", 5),
    Moment("check at an epoch's end, an audit", f"{PACKAGE}.audits._measure:Measure.__call__", 13),
    Moment("restore after relearning", f"{PACKAGE}.attacks._perturbed:drop_copies", 6),
    Moment("restore after rounding", f"{PACKAGE}.attacks._rounding:editing", 17),
    Moment("restore of buffers", f"{PACKAGE}.runtime._kept_tensors:_write_", 40),
    Moment("observations are kept, the control is due", f"{CHECK}._observe_control", 2),
    Moment("final check, its beginning", f"{CHECK}.on_train_end", 1),
    Moment("final check, an attack", f"{CHECK}._check", 3),
    Moment("final check, restore after relearning", f"{PACKAGE}.attacks._perturbed:drop_copies", 8),
    Moment("report, its beginning", f"{PACKAGE}.callbacks._write_report:WriteReport.on_fit_end", 1),
    Moment("report, the first file is written", f"{PACKAGE}.report.render._save:written_whole", 1),
    Moment("report, between its files", f"{PACKAGE}.report.render._save:written_whole", 3),
]


class Fragile(pl.LightningModule):
    """All that a resume could lose: dropout, statistics, momentum, a schedule."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(self.global_step)  # before any callback's hook that draws

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98), "interval": "step"}]


def rows(seed: int, n: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    return DataLoader(TensorDataset(x, x[:, :4].argmax(1)), batch_size=4)


def fit(folder: Path) -> None:
    """The script that is killed. Run again, it goes on where it stopped."""
    check = RecoveryCheck(
        {"relearn": Relearn(steps=2, lr=0.05, mode="full"), "int4": Quantize(bits=4)}, every_n_epochs=2
    )
    callbacks = [
        FinetuneFirst(epochs=2, lr=1e-2, batch_size=8, folder=str(folder / "taught"), control=True),
        Unlearn(NPO(beta=0.5), reference=CachedLogLikelihood(str(folder / "cache"))),
        StepGuard(directions=History(length=3)),
        check,
        WriteReport(str(folder / "report")),
        pl.callbacks.ModelCheckpoint(folder / "steps", every_n_train_steps=2, save_last=True),
        pl.callbacks.ModelCheckpoint(folder / "epochs", save_last=True),  # after the check at an epoch's end
    ]
    module = Fragile()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        callbacks=callbacks,
        logger=False,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    data = ForgetRetainData(retain=rows(1, 16), forget=rows(2, 16), order=RandomOrder())
    trainer.fit(module, datamodule=data, ckpt_path="last")
    result = {"weights": module.state_dict(), "observations": [asdict(o) for o in check.observations]}
    torch.save(result, folder / "result.pt")


def die_at(moment: Moment) -> None:
    """Let this process be killed at the moment."""
    module, _, path = moment.function.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    function, calls = getattr(owner, name), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == moment.call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    # A profiled optimizer step is looked at for a mark, without which torch wraps it once more.
    counted.__dict__.update(getattr(function, "__dict__", {}))
    setattr(owner, name, counted)


def in_a_process(task: Callable[[], None], log: Path) -> int:
    """Run ``task`` in a fork, which has all imports already. Returns its exit status, or minus the signal that killed it."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            with log.open("a") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            warnings.simplefilter("ignore")
            task()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def result_of(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "report" / "report.json").read_text())
    report["run"] = {name: value for name, value in report["run"].items() if name not in TIMES}
    # Seconds, looks that a killed run made for nothing, and the commit of the folder that it was started in.
    for of_the_run in ("costs", "budget", "code"):
        del report["record"][of_the_run]
    return {**torch.load(folder / "result.pt", weights_only=True), "report": report}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else json.dumps(a) == json.dumps(b)


def left_over(folder: Path) -> list[str]:
    """Hidden or temporary files that would stay forever, below all folders of the run."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.name[0] == "." or "tmp" in path.name
    )


def resumed_from(folder: Path) -> int | None:
    """The step of the newest checkpoint; the epoch's, which holds its check, is newer than that of its last step."""
    steps = [int(torch.load(last, weights_only=True)["global_step"]) for last in folder.glob("*/last.ckpt")]
    return max(steps, default=None)


def killed_and_resumed(moment: Moment, expected: dict[str, Any], root: Path) -> dict[str, Any]:
    folder = root / "killed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    first = in_a_process(lambda: (die_at(moment), fit(folder))[1], folder / "log")
    found: dict[str, Any] = {**moment._asdict(), "killed": first == -signal.SIGKILL, "from_step": resumed_from(folder)}
    second = in_a_process(lambda: fit(folder), folder / "log")
    if second != 0:
        return {**found, "error": (folder / "log").read_text().strip().splitlines()[-1]}
    result = result_of(folder)
    return {**found, **{name: same(result[name], expected[name]) for name in expected}, "left_over": left_over(folder)}


def is_equal(found: dict[str, Any]) -> bool:
    parts = ("killed", "weights", "observations", "report")
    return all(found.get(part) for part in parts) and not found["left_over"]


def table(moments: list[dict[str, Any]]) -> str:
    lines = [
        "| killed | resumed from step | weights | observations | report | left over |",
        "|---|---|---|---|---|---|",
    ]
    for found in moments:
        start = "the start" if found["from_step"] is None else found["from_step"]
        cells = ["equal" if found.get(part) else "DIFFERENT" for part in ("weights", "observations", "report")]
        if not found["killed"]:
            cells = ["NEVER REACHED"] * 3
        elif "error" in found:
            cells = ["FAILED"] * 3
        lines.append(f"| {found['place']} | {start} | {' | '.join(cells)} | {len(found.get('left_over', []))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--afresh", action="store_true", help="forget what results/kill.json has of this commit")
    parser.add_argument("--only", default="", help="moments with these words in their place")
    parser.add_argument("--keep", type=Path, help="where to keep the last killed run, its log included")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # forked processes must not share a pool of threads
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from run_config import commit, machine

    head = {"commit": commit(), "machine": machine()}
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() and not arguments.afresh else {}
    known = {found["place"]: found for found in kept.get("moments", []) if kept["commit"] == head["commit"]}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(arguments.keep or temporary)
        shutil.rmtree(root / "whole", ignore_errors=True)
        (root / "whole").mkdir(parents=True)
        if in_a_process(lambda: fit(root / "whole"), root / "whole" / "log") != 0:
            sys.exit((root / "whole" / "log").read_text())
        expected = result_of(root / "whole")
        for moment in MOMENTS:
            if arguments.only in moment.place and not is_known(known.get(moment.place), moment):
                known[moment.place] = killed_and_resumed(moment, expected, root)
                print(table([known[moment.place]]).splitlines()[-1], known[moment.place].get("error", ""), flush=True)
                write(head, known)
    moments = [known[moment.place] for moment in MOMENTS if moment.place in known]
    equal = sum(map(is_equal, moments))
    print(table(moments), f"{equal} of {len(moments)} equal; {time.monotonic() - started:.0f} seconds.", sep="\n\n")
    sys.exit(equal < len(moments))


def is_known(found: dict[str, Any] | None, moment: Moment) -> bool:
    return found is not None and is_equal(found) and Moment(*(found[name] for name in Moment._fields)) == moment


def write(head: dict[str, Any], known: dict[str, dict[str, Any]]) -> None:
    """After each moment: the benchmark may be interrupted, too."""
    moments = [known[moment.place] for moment in MOMENTS if moment.place in known]
    counts = {"killed": len(moments), "equal": sum(map(is_equal, moments))}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({**head, **counts, "moments": moments}, indent=1) + "\n")


if __name__ == "__main__":
    main()
