"""Image classifiers forget, also without retain data, and with an adapter; the bundled configurations train."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from _modules import quiet, same
from _shared_data import DATA
from torch import Tensor, nn

from lightning_unlearn import (
    NPO,
    ClassificationReadout,
    ForgetRetainData,
    LoaderSettings,
    LoRA,
    TinyViT,
    TrainOnly,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.cli import bundled_configs, main, read_config
from lightning_unlearn.data import AllBut, ClassMeans, ImageData, Images, LabelledImages, MixedPrototypes, OfClasses
from lightning_unlearn.readouts import HeadReadout
from lightning_unlearn.runtime import eval_without_grad

CONFIGS = [name for name, path in bundled_configs().items() if path.parent.name == "vision"]


class Drawn(Images):
    """Four classes that differ in brightness."""

    def load(self) -> LabelledImages:
        labels = torch.arange(64) % 4
        noise = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        return LabelledImages(noise + 2 * labels[:, None, None, None] - 3, labels, list("abcd"))


GONE = OfClasses(["b"])


def part(gone: bool, size: int = 16) -> ImageData:
    return ImageData(Drawn(), GONE if gone else AllBut(GONE), loader=LoaderSettings(batch_size=size))


@pytest.fixture(scope="module")
def taught() -> dict[str, Tensor]:
    """A network that tells the four classes apart."""
    network, data = TinyViT(4, size=8, patch=4, width=16, depth=2), ImageData(Drawn(), loader=LoaderSettings(64))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(60):
        for x, y in data.val_dataloader():
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    return network.state_dict()


def start(taught: dict[str, Tensor]) -> TinyViT:
    network = TinyViT(4, size=8, patch=4, width=16, depth=2)
    network.load_state_dict(taught)
    return network


def right(network: nn.Module, gone: bool) -> float:
    with eval_without_grad(network):
        return float(torch.cat([network(x).argmax(1) == y for x, y in part(gone).val_dataloader()]).float().mean())


def fit(network: nn.Module, retain: Any, *callbacks: Any, steps: int = 30, **module: Any) -> nn.Module:
    optimizer = lambda params: torch.optim.AdamW(params, lr=5e-3)  # noqa: E731
    wrapped = UnlearningModule(network, readout=ClassificationReadout(), optimizer=optimizer, **module)
    trainer = quiet(callbacks=[Unlearn(NPO()), *callbacks], max_steps=steps, max_epochs=-1, limit_val_batches=0)
    trainer.fit(wrapped, datamodule=ForgetRetainData(retain=retain, forget=part(True)))
    return network


def test_a_class_is_forgotten_and_the_others_stay(taught: dict[str, Tensor]) -> None:
    network = start(taught)
    assert (right(network, gone=True), right(network, gone=False)) > (0.95, 0.95)
    fit(network, part(False))
    assert right(network, gone=True) < 0.3
    assert right(network, gone=False) > 0.9


def test_without_retain_data_points_between_class_means_keep_the_head(taught: dict[str, Tensor]) -> None:
    """The body stays bit for bit. Without the points, the head would forget the other classes as well."""
    before = start(taught)
    kept = ClassMeans.seen(before, part(False).val_dataloader(), head="head")
    points = MixedPrototypes(kept, count=64, loader=LoaderSettings(batch_size=16))
    network = fit(start(taught), points, TrainOnly("head"), retain_readout=HeadReadout("head"), steps=60)
    assert same(network.blocks, before.blocks)
    assert torch.equal(network.patches.weight, before.patches.weight)
    assert right(network, gone=True) < 0.3
    assert right(network, gone=False) > 0.9


def test_an_adapter_goes_around_an_image_classifier_and_into_its_weights(taught: dict[str, Tensor]) -> None:
    before, wrapped = start(taught), LoRA(r=4, target_modules=["fc1", "fc2"]).wrap(start(taught))
    x = Drawn().load().images
    with eval_without_grad(wrapped):
        assert torch.equal(wrapped(x), before.eval()(x))
    fit(wrapped, part(False))
    with eval_without_grad(wrapped):
        found = wrapped(x)
    assert right(wrapped, gone=True) < 0.5
    plain = wrapped.merge_and_unload()
    assert isinstance(plain, TinyViT)
    with eval_without_grad(plain):
        torch.testing.assert_close(plain(x), found, rtol=0, atol=1e-4)
    assert same(plain.blocks[0].qkv, before.blocks[0].qkv)


def test_a_head_that_is_not_there_is_refused(taught: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"`head` should name a layer of the network. Found `linear`, and \['patches'"):
        HeadReadout("linear")(start(taught), (torch.zeros(1, 16), torch.tensor([0])))


# From YAML


def absent(settings: Any) -> list[str]:
    named = re.findall(r"\.\./shared/data/([\w./-]+)", yaml.safe_dump(settings, width=1000))
    assert named
    return [name for name in named if not (DATA / name).exists()]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_bundled_configuration_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of a small network; without teaching and checks, which others have tests for."""
    settings = read_config(f"bundled:{name}")
    if missing := absent(settings):
        pytest.skip(f"needs {missing}; set LIGHTNING_UNLEARN_DATA")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    for unwanted in ("finetune_first", "report"):
        del settings[unwanted]
    settings["recovery"] = {"every_n_epochs": 0}
    network = settings["model"]["init_args"]["network"]
    small = {"width": 4} if "ResNet" in network["class_path"] else {"width": 8, "depth": 1}
    network.setdefault("init_args", {}).update(small)
    settings["trainer"].update({"max_steps": 2, "enable_progress_bar": False, "enable_model_summary": False})
    text = yaml.safe_dump(settings, width=1000).replace("../shared/data", str(DATA))
    Path("config.yaml").write_text(text)
    cli = main(["fit", "--config", "config.yaml"])
    (unlearn,) = (c for c in cli.trainer.callbacks if isinstance(c, Unlearn))
    assert unlearn._steps == {"merged": 2, "taken": 2}
    forget, retain = (part.source.dataset for part in (cli.datamodule.forget, cli.datamodule.retain))
    assert len(forget) + len(retain) == 3000
    assert len(forget) == 300


def test_there_is_a_configuration_of_each_kind() -> None:
    assert {name.rpartition("_")[2] for name in CONFIGS} == {"class", "subclass", "sample"}
