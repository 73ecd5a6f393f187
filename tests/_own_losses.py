"""LightningModules whose loss is no cross-entropy of what ``forward`` gives, each with data of its own."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


class Rows(Dataset[Any]):
    """Rows of a list, which differ from seed to seed."""

    def __init__(self, make: Any, seed: int, size: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.rows = [make(generator) for _ in range(size)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


def normal(*shape: int) -> Any:
    return lambda generator: torch.randn(*shape, generator=generator)


def integer(high: int, *shape: int) -> Any:
    return lambda generator: torch.randint(0, high, shape, generator=generator)


class Shape(pl.LightningModule):
    """A shape of module, and its data."""

    parts: Any = (normal(8), integer(4))
    collate: Any = None

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.build()

    def build(self) -> None:
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-2)

    @classmethod
    def loader(cls, seed: int, size: int = 16, batch_size: int = 4) -> DataLoader[Any]:
        def make(generator: Any) -> Any:
            return (
                {k: part(generator) for k, part in cls.parts.items()}
                if isinstance(cls.parts, dict)
                else tuple(part(generator) for part in cls.parts)
            )

        return DataLoader(Rows(make, seed, size), batch_size=batch_size, collate_fn=cls.collate)

    def loss(self, batch: Any) -> Tensor:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("my_loss", loss)
        return loss


class NoForward(Shape):
    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])


class Embedding(Shape):
    """``forward`` gives features; the head is in the loss."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def build(self) -> None:
        super().build()
        self.head = nn.Linear(4, 4)

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(3 * self.head(self(batch[0]).relu()), batch[1])


class Softmax(Shape):
    """``forward`` gives probabilities."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).softmax(-1)

    def loss(self, batch: Any) -> Tensor:
        return F.nll_loss(self(batch[0]).log(), batch[1])


class OneLogit(Shape):
    parts = (normal(8), integer(2))

    def build(self) -> None:
        self.net = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(self(batch[0])[:, 0], batch[1].float())


class MultiLabel(Shape):
    parts = (normal(8), integer(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1].float())


class SoftLabels(Shape):
    parts = (normal(8), normal(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1].softmax(-1))


class Smoothed(Shape):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1], label_smoothing=0.2)


class Regression(Shape):
    parts = (normal(8), normal(1))

    def build(self) -> None:
        self.net = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        return F.mse_loss(self(batch[0]), batch[1])


class SummedLoss(Regression):
    def loss(self, batch: Any) -> Tensor:
        return F.mse_loss(self(batch[0]), batch[1], reduction="sum")


class Segmentation(Shape):
    parts = (normal(2, 6, 6), integer(3, 6, 6))

    def build(self) -> None:
        self.net = nn.Conv2d(2, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


class Detection(Shape):
    """Images of many sizes, and a mapping of boxes for each."""

    @staticmethod
    def collate(rows: Any) -> Any:
        return [row[0] for row in rows], [row[1] for row in rows]

    @staticmethod
    def image(generator: Any) -> Tensor:
        side = int(torch.randint(4, 8, (), generator=generator))
        return torch.randn(2, side, side, generator=generator)

    @staticmethod
    def target(generator: Any) -> Any:
        count = int(torch.randint(1, 4, (), generator=generator))
        return {"boxes": torch.rand(count, 4, generator=generator)}

    parts = (image, target)

    def build(self) -> None:
        self.net = nn.Conv2d(2, 4, 3)

    def forward(self, images: Any) -> Any:
        return [self.net(image[None]).mean((0, 2, 3)) for image in images]

    def loss(self, batch: Any) -> Tensor:
        images, targets = batch
        found = zip(self(images), targets, strict=True)
        return torch.stack([(box - target["boxes"]).square().mean() for box, target in found]).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": self.loss(batch), "images": len(batch[0])}


class Contrastive(Shape):
    """Two views of each example: the others of the batch are the negatives."""

    parts = (normal(8), normal(8))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.net(x), dim=-1)

    def loss(self, batch: Any) -> Tensor:
        scores = self(batch[0]) @ self(batch[1]).T / 0.1
        return F.cross_entropy(scores, torch.arange(len(scores)))


class Siamese(Shape):
    parts = {"pair": lambda g: (torch.randn(8, generator=g), torch.randn(8, generator=g)), "same": integer(2)}

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.net(a) - self.net(b)).norm(dim=-1)

    def loss(self, batch: Any) -> Tensor:
        distance = self(*batch["pair"])
        same = batch["same"].float()
        return (same * distance**2 + (1 - same) * F.relu(2 - distance) ** 2).mean()


class VAE(Shape):
    """Draws its latent."""

    def build(self) -> None:
        self.encode, self.decode = nn.Linear(8, 4), nn.Linear(2, 8)

    def forward(self, z: Tensor) -> Tensor:
        return self.decode(z)

    def loss(self, batch: Any) -> Tensor:
        mean, log_variance = self.encode(batch[0]).chunk(2, -1)
        z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(-1).mean()
        return F.mse_loss(self(z), batch[0]) + 0.1 * divergence


class Penalised(Regression):
    """Differentiates inside of the step."""

    def loss(self, batch: Any) -> Tensor:
        x = batch[0].clone().requires_grad_()
        y = self(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return F.mse_loss(y, batch[1]) + 0.1 * slope.square().sum(-1).mean()


class Recurrent(Shape):
    """Carries its hidden state from batch to batch, as truncated backpropagation through time does."""

    parts = (normal(5, 8), integer(4))

    def build(self) -> None:
        self.rnn, self.head = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 4)
        self.hidden: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        out, hidden = self.rnn(x, self.hidden)
        self.hidden = hidden.detach()
        return self.head(out[:, -1])

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1], label_smoothing=0.2)


class Normalised(Shape):
    """BatchNorm, and a loss that no readout knows."""

    def build(self) -> None:
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))

    def loss(self, batch: Any) -> Tensor:
        return (self.net(batch[0])[:, 0] - batch[1]).square().mean()


class Graph:
    """A batch of graphs, as graph libraries make them: no list, no mapping, no tensor."""

    def __init__(self, rows: Any) -> None:
        self.x = torch.cat([row[0] for row in rows])
        self.graph = torch.cat([torch.full((len(row[0]),), i) for i, row in enumerate(rows)])
        self.y = torch.stack([row[1] for row in rows])

    def to(self, *args: Any, **kwargs: Any) -> Graph:
        return self


class GraphNetwork(Shape):
    parts = (normal(3, 8), integer(4))
    collate = Graph

    def forward(self, batch: Graph) -> Tensor:
        pooled = torch.zeros(len(batch.y), 8, dtype=batch.x.dtype).index_add(0, batch.graph, batch.x)
        return self.net(pooled)

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch), batch.y)


OWN_LOSSES: list[type[Shape]] = [
    NoForward,
    Embedding,
    Softmax,
    OneLogit,
    MultiLabel,
    SoftLabels,
    Smoothed,
    Regression,
    SummedLoss,
    Segmentation,
    Detection,
    Contrastive,
    Siamese,
    VAE,
    Penalised,
    Recurrent,
    Normalised,
    GraphNetwork,
]
"""All shapes."""

BY_BATCH = {Contrastive, VAE, Recurrent, Normalised, GraphNetwork}
"""Those that have one row per batch in training."""
