"""Images are those of the files, and what must go and what must stay are two halves of them."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _shared_data import DATA
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_unlearn.data import (
    AllBut,
    CIFARBatches,
    ClassMeans,
    IDXImages,
    ImageArchive,
    ImageData,
    Images,
    LabelledImages,
    LastOfEach,
    LoaderSettings,
    MixedPrototypes,
    OfClasses,
    Pick,
    Picked,
    RandomPart,
)

MNIST = [DATA / "mnist" / f"t10k-{what}-ubyte.gz" for what in ("images-idx3", "labels-idx1")]


class Numbered(Images):
    """Each image holds its own number."""

    def load(self) -> LabelledImages:
        labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
        return LabelledImages(torch.arange(8.0)[:, None, None, None], labels, ["cat", "dog", "frog"])


def numbers(data: ImageData) -> list[int]:
    return [int(number) for x, _ in data.val_dataloader() for number in x.flatten()]


# A new pick joins here.
PICKS: dict[str, Pick] = {
    "names": OfClasses(["dog", "frog"]),
    "numbers": OfClasses([1]),
    "few": OfClasses(["cat", "dog"], most=2, seed=1),
    "random": RandomPart(0.4, seed=3),
    "last": LastOfEach(0.34),
    "but": AllBut(OfClasses(["cat"])),
}


@pytest.mark.parametrize("name", PICKS)
def test_a_pick_and_the_rest_are_everything_once(name: str) -> None:
    pick = PICKS[name]
    picked, rest = numbers(ImageData(Numbered(), pick)), numbers(ImageData(Numbered(), AllBut(pick)))
    assert picked
    assert rest
    assert sorted([*picked, *rest]) == list(range(8))
    assert numbers(ImageData(Numbered(), pick)) == picked


def test_picks_pick_what_they_say() -> None:
    assert numbers(ImageData(Numbered(), PICKS["names"])) == [1, 2, 4, 5, 7]
    assert numbers(ImageData(Numbered(), PICKS["numbers"])) == [1, 4, 7]
    assert numbers(ImageData(Numbered(), PICKS["last"])) == [5, 6, 7]
    assert len(numbers(ImageData(Numbered(), RandomPart(0.5)))) == 4
    assert numbers(ImageData(Numbered(), RandomPart(0.5, seed=1))) != numbers(ImageData(Numbered(), RandomPart(0.5)))


def test_groups_are_learnt_and_classes_are_picked() -> None:
    data = ImageData(Numbered(), OfClasses(["frog"]), groups=[[1], [0, 2]])
    assert numbers(data) == [2, 5]
    assert [y.tolist() for _, y in data.val_dataloader()] == [[1, 1]]
    assert numbers(ImageData(Numbered(), groups=[[0, 2]])) == [0, 2, 3, 5, 6]  # what is in no group is left out


def test_a_smaller_draw_of_each_class_is_a_part_of_a_larger_one() -> None:
    draws = [set(numbers(ImageData(Numbered(), OfClasses(["cat", "frog"], most, seed=2)))) for most in (1, 2, 3, None)]
    assert [len(draw) for draw in draws] == [2, 4, 5, 5]
    assert draws[0] < draws[1] < draws[2] == draws[3] == {0, 2, 3, 5, 6}
    assert len({tuple(numbers(ImageData(Numbered(), OfClasses([0], 1, seed)))) for seed in range(20)}) == 3


def test_picked_images_are_a_source_of_their_own() -> None:
    found = Picked(Numbered(), PICKS["last"]).load()
    assert (found.images.flatten().tolist(), found.labels.tolist()) == ([5, 6, 7], [2, 0, 1])
    assert found.classes == Numbered().load().classes


def test_the_entity_of_an_image_is_its_class_also_in_a_group() -> None:
    for groups in (None, [[1], [0, 2]]):
        assert ImageData(Numbered(), PICKS["names"], groups).dataset.entities == ["dog", "frog", "dog", "frog", "dog"]


def test_held_out_images_are_picked_and_grouped_alike() -> None:
    test = Picked(Numbered(), PICKS["last"])
    data = ImageData(Numbered(), OfClasses(["dog", "frog"]), [[1], [0, 2]], test=test)
    assert [x.flatten().tolist() for x, _ in data.val_dataloader()] == [[5, 7]]
    assert [y.tolist() for _, y in data.test_dataloader()] == [[1, 0]]
    assert sorted(int(n) for x, _ in data.train_dataloader() for n in x.flatten()) == [1, 2, 4, 5, 7]


def test_training_is_shuffled_and_leaves_the_generator_alone() -> None:
    data = ImageData(Numbered(), loader=LoaderSettings(batch_size=8, seed=1))
    state = torch.get_rng_state()
    ((x, y),) = data.train_dataloader()
    assert torch.equal(torch.get_rng_state(), state)
    assert x.flatten().tolist() != list(range(8))
    assert torch.equal(y, Numbered().load().labels[x.flatten().long()])


def archive(path: Path, **splits: str) -> dict[str, np.ndarray[Any, Any]]:
    """Three images of each class; of a training split, or of these."""
    drawn, splits = np.random.default_rng(0), splits or {"train": "ab"}
    names = [f"{split}/{kind}/{n}.png" for split, kinds in splits.items() for kind in kinds for n in range(3)]
    images = {name: drawn.integers(0, 256, (4, 4, 3), np.uint8) for name in names}
    with zipfile.ZipFile(path, "w") as target:
        for name, pixels in images.items():
            raw = io.BytesIO()
            Image.fromarray(pixels).save(raw, "PNG")
            target.writestr(name, raw.getvalue())
    return images


def test_an_archive_gives_its_pixels_by_class(tmp_path: Path) -> None:
    written = archive(tmp_path / "images.zip")
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.1, 0.5)
    found = ImageArchive(str(tmp_path / "images.zip"), most=2, mean=mean, std=std).load()
    assert (found.labels.tolist(), found.classes) == ([0, 0, 1, 1], ["a", "b"])
    for image, name in zip(found.images, ("train/a/0", "train/a/1", "train/b/0", "train/b/1"), strict=True):
        by_hand = (written[f"{name}.png"].transpose(2, 0, 1) / 255 - np.array(mean)[:, None, None]) / np.array(std)[
            :, None, None
        ]
        assert_close(image.double(), torch.from_numpy(by_hand), rtol=0, atol=1e-5)


def test_a_folder_gives_what_an_archive_of_it_does(tmp_path: Path) -> None:
    archive(tmp_path / "images.zip")
    with zipfile.ZipFile(tmp_path / "images.zip") as packed:
        packed.extractall(tmp_path / "folder")
    zipped, plain = (ImageArchive(str(tmp_path / name)).load() for name in ("images.zip", "folder"))
    assert torch.equal(zipped.images, plain.images)
    assert (zipped.labels.tolist(), zipped.classes) == (plain.labels.tolist(), plain.classes)


def test_splits_number_their_classes_alike_also_where_one_is_missing(tmp_path: Path) -> None:
    archive(tmp_path / "images.zip", train="abc", test="ac", __MACOSX="t")
    train, test = (ImageArchive(str(tmp_path / "images.zip"), split) for split in ("train", "test"))
    assert (train.load().classes, test.load().classes) == (["a", "b", "c"], ["a", "b", "c"])
    assert test.load().labels.tolist() == [0, 0, 0, 2, 2, 2]
    ((_, labels),) = ImageData(train, test=test).val_dataloader()
    assert labels.tolist() == [0, 0, 0, 2, 2, 2]


def test_held_out_images_that_number_classes_otherwise_are_refused(tmp_path: Path) -> None:
    archive(tmp_path / "images.zip", train="abc")
    archive(tmp_path / "other.zip", train="ac")
    images, test = (ImageArchive(str(tmp_path / name)) for name in ("images.zip", "other.zip"))
    with pytest.raises(ValueError, match="`test` should number classes as `images` do. Found 'c' and 'b' as number 1"):
        ImageData(images, test=test).val_dataloader()


def test_binary_cifar_is_read_in_the_order_of_its_files(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), np.uint8)
    for number, (image, label) in enumerate(zip(pixels, (9, 0, 3), strict=True)):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(bytes([label]) + image.tobytes())
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.1, 0.5)
    found = CIFARBatches(str(tmp_path), mean=mean, std=std).load()
    assert [found.classes[label] for label in found.labels] == ["truck", "airplane", "cat"]
    back = found.images * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    assert_close(back * 255, torch.from_numpy(pixels).float(), rtol=0, atol=1e-4)
    with pytest.raises(FileNotFoundError, match=r"`folder` should hold .* Found none .* `split = 'test'`"):
        CIFARBatches(str(tmp_path), "test").load()
    with pytest.raises(ValueError, match='`split` should be "train" or "test"'):
        CIFARBatches(str(tmp_path), "val")  # type: ignore[arg-type]
    (tmp_path / "test_batch.bin").write_bytes(b"cut")
    with pytest.raises(ValueError, match="should hold 3073 bytes an image. Found 3 in all"):
        CIFARBatches(str(tmp_path), "test").load()


def test_images_are_averaged_down(tmp_path: Path) -> None:
    archive(tmp_path / "images.zip")
    whole, half = (ImageArchive(str(tmp_path / "images.zip"), size=size).load().images for size in (None, 2))
    assert half.shape == (6, 3, 2, 2)
    assert_close(half[:, :, 0, 0], whole[:, :, :2, :2].mean((2, 3)))
    with pytest.raises(ValueError, match="`size` should divide height and width, 4 and 4. Found `size = 3`"):
        ImageArchive(str(tmp_path / "images.zip"), size=3).load()


def test_a_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    archive(tmp_path / "images.zip")
    with pytest.raises(ValueError, match="`split` should be a folder .* Found no image under `val/`"):
        ImageArchive(str(tmp_path / "images.zip"), split="val").load()


def idx(path: Path, values: np.ndarray[Any, Any], *, zipped: bool) -> str:
    raw = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(raw) if zipped else raw)
    return str(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files_give_what_was_written(zipped: bool, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 4), np.uint8)
    paths = (
        idx(tmp_path / "x", pixels, zipped=zipped),
        idx(tmp_path / "y", np.array([0, 1, 2, 1, 0], np.uint8), zipped=zipped),
    )
    found = IDXImages(*paths, start=1, stop=4, mean=0.0, std=1.0).load()
    assert found.labels.tolist() == [1, 2, 1]
    assert_close(found.images[:, 0] * 255, torch.from_numpy(pixels[1:4]).float())
    assert found.classes == ["0", "1", "2"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"PNG and more")
    with pytest.raises(ValueError, match="should be an IDX file of bytes. Found one that begins with b'PNG '"):
        IDXImages(str(tmp_path / "x"), str(tmp_path / "x")).load()
    labels = idx(tmp_path / "y", np.zeros(3, np.uint8), zipped=False)
    (tmp_path / "cut").write_bytes(Path(labels).read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"should hold as many bytes as it begins with, \(3,\). Found 2"):
        IDXImages(str(tmp_path / "cut"), labels).load()
    with pytest.raises(ValueError, match=r"should be \[N, H, W\] and \[N\]. Found \(3,\)"):
        IDXImages(labels, labels).load()


@pytest.mark.skipif(not MNIST[0].exists(), reason="needs MNIST; set LIGHTNING_UNLEARN_DATA")
def test_mnist_is_centred() -> None:
    """Mean and deviation are those of the training images, which are not here."""
    found = IDXImages(*map(str, MNIST)).load()
    assert found.images.shape == (10000, 1, 28, 28)
    assert abs(float(found.images.mean())) < 0.02
    assert abs(float(found.images.std()) - 1) < 0.02
    assert found.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_nothing_left_is_refused() -> None:
    with pytest.raises(ValueError, match="`pick` should leave at least one image of 8. Found none"):
        _ = ImageData(Numbered(), AllBut(OfClasses([0, 1, 2]))).dataset
    with pytest.raises(ValueError, match=r"should be among \['cat', 'dog', 'frog'\], or their numbers. Found 'cow'"):
        _ = ImageData(Numbered(), OfClasses(["cow"])).dataset
    with pytest.raises(ValueError, match="`classes` should name at least one class"):
        OfClasses([])
    with pytest.raises(ValueError, match="`share` should be"):
        RandomPart(0.0)


# What is left when retain data are gone.


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 3))


def test_prototypes_are_the_means_of_what_the_head_reads() -> None:
    net, found = network(), Numbered().load()
    seen = ClassMeans.seen(net, ImageData(Numbered(), loader=LoaderSettings(batch_size=3)).val_dataloader(), head="3")
    features: Tensor = net[1](found.images.flatten(1)).detach()  # evaluation mode: no dropout
    expected = torch.stack([features[found.labels == label].mean(0) for label in range(3)])
    assert_close(seen.means, expected)
    assert net.training
    assert not net[3]._forward_pre_hooks


def test_no_hook_stays_also_if_a_batch_fails() -> None:
    net = network()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        ClassMeans.seen(net, [(torch.zeros(2, 5), torch.zeros(2))], head="3")
    assert not net[3]._forward_pre_hooks


def test_prototypes_go_to_a_file_and_come_back(tmp_path: Path) -> None:
    kept = ClassMeans.of(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 5)
    kept.save(tmp_path / "kept.safetensors")
    again = ClassMeans.load(tmp_path / "kept.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(vars(kept).values(), vars(again).values(), strict=True))
    assert MixedPrototypes(str(tmp_path / "kept.safetensors")).dataset.tensors[0].shape == (512, 4)


def test_classes_that_are_gone_leave_no_point_behind() -> None:
    kept = ClassMeans.of(torch.eye(4).repeat(3, 1) + 0.01, torch.arange(4).repeat(3), neighbours=3)
    points, labels = MixedPrototypes(kept, count=60, without=[2]).dataset.tensors
    assert set(labels.tolist()) == {0, 1, 3}
    assert (points[:, 2] < 0.02).all()
    assert (points.gather(1, labels[:, None]) > 0.5).all()
    with pytest.raises(ValueError, match="`without` should leave at least one class"):
        _ = MixedPrototypes(kept, without=[0, 1, 2, 3]).dataset


def test_a_class_that_was_never_seen_has_no_prototype() -> None:
    kept = ClassMeans.of(torch.tensor([[0.0], [4.0], [5.0]]), torch.tensor([0, 2, 3]), neighbours=1)
    assert kept.labels.tolist() == [0, 2, 3]
    assert set(MixedPrototypes(kept).dataset.tensors[1].tolist()) == {0, 2, 3}
    assert kept.beside(1) == []
    assert kept.beside(3) == [2]
