"""Shapes of LightningModules as public code has them, small: examples, tutorials, templates, papers' repositories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

WIDTH, CLASSES, WORDS, LENGTH = 8, 4, 20, 6


class Base(pl.LightningModule):
    """What all shapes share: they log their loss, and have an optimizer."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss, batch_size=4)
        return loss

    def loss(self, batch: Any) -> Tensor:
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=3e-3)


def mlp(out: int = CLASSES, width: int = WIDTH) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, out))


# ---------------------------------------------------------------------------------------- classifiers


class Classifier(Base):
    """``forward`` gives logits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)


class NormAndDropout(Classifier):
    """A small CNN with BatchNorm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(128, CLASSES)
        )


class NoForward(Base):
    """``training_step`` calls ``self.model``; there is no ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.model = mlp()

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])


class EmbeddingForward(Base):
    """``forward`` is for inference and gives features; the head is in ``training_step``."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(WIDTH, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).relu()

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.head(self(batch[0])), batch[1])


class SoftmaxForward(Classifier):
    """``forward`` gives probabilities."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).softmax(-1)

    def loss(self, batch: Any) -> Tensor:
        return F.nll_loss(self(batch[0]).log(), batch[1])


class LabelSmoothing(Classifier):
    """A classifier with another loss than plain cross-entropy."""

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1], label_smoothing=0.1)


class NamedInputs(Base):
    """A batch of named tensors with a mask, as GLUE modules have."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.net(x * mask)

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(x=batch["x"], mask=batch["mask"]), batch["labels"])


class OneLogit(Base):
    """One logit and binary cross-entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(self(batch[0])[:, 0], batch[1].float())


class MultiLabel(Classifier):
    """Several labels at once, ``[B, V]`` floats."""

    def loss(self, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1])


class Mixup(Classifier):
    """Rows of a batch are mixed at random in ``training_step``."""

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        order, share = torch.randperm(len(x)), torch.rand(())
        logits = self(share * x + (1 - share) * x[order])
        return share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y[order])


class Distillation(Classifier):
    """A frozen teacher inside the module."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = mlp().requires_grad_(False).eval()

    def loss(self, batch: Any) -> Tensor:
        logits, taught = self(batch[0]), self.teacher(batch[0])
        soft = F.kl_div(logits.log_softmax(-1), taught.softmax(-1), reduction="batchmean")
        return F.cross_entropy(logits, batch[1]) + soft


class MultiTask(Base):
    """Two heads, two losses, a dictionary in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.kind, self.size = nn.Linear(WIDTH, 16), nn.Linear(16, CLASSES), nn.Linear(16, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        hidden = self.body(batch["x"]).relu()
        kind, size = (
            F.cross_entropy(self.kind(hidden), batch["kind"]),
            F.mse_loss(self.size(hidden)[:, 0], batch["size"]),
        )
        self.log_dict({"kind": kind, "size": size}, batch_size=len(hidden))
        return {"loss": kind + 0.5 * size, "kind": kind.detach()}


class LoggedMetrics(Classifier):
    """torchmetrics and counters in ``training_step``."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = torchmetrics.MeanMetric()
        self.seen: list[int] = []

    def loss(self, batch: Any) -> Tensor:
        logits = self(batch[0])
        self.accuracy((logits.argmax(-1) == batch[1]).float())
        self.log("train_accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.seen.append(len(logits))
        return F.cross_entropy(logits, batch[1])


# ---------------------------------------------------------------------------------------- dense outputs, numbers


class Segmentation(Base):
    """Logits ``[B, V, H, W]``, labels ``[B, H, W]``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, CLASSES, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1], ignore_index=255)


class Detection(Base):
    """Lists of images and of target dictionaries, a dictionary of losses, as torchvision's detectors have."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 8, 3)
        self.box, self.kind = nn.Linear(8, 4), nn.Linear(8, CLASSES)

    def loss(self, batch: Any) -> Tensor:
        images, targets = batch
        pooled = torch.stack([self.net(image[None]).mean((0, 2, 3)) for image in images])
        boxes = torch.stack([F.l1_loss(self.box(p), t["boxes"].mean(0)) for p, t in zip(pooled, targets, strict=True)])
        kinds = F.cross_entropy(self.kind(pooled), torch.stack([t["labels"][0] for t in targets]))
        return sum({"boxes": boxes.mean(), "kinds": kinds}.values())


class Regression(Base):
    """Mean squared error."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[:, 0]

    def loss(self, batch: Any) -> Tensor:
        return F.mse_loss(self(batch[0]), batch[1])


class Forecast(Base):
    """A time series in, quantiles of its future out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.GRU(1, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, past: Tensor) -> Tensor:
        return self.head(self.net(past[..., None])[0][:, -1])

    def loss(self, batch: Any) -> Tensor:
        error = batch["future"][:, None] - self(batch["past"])
        quantiles = error.new_tensor([0.1, 0.5, 0.9])
        return torch.maximum(quantiles * error, (quantiles - 1) * error).mean()


class Recommender(Base):
    """Users, items and ratings."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(WORDS, 8), nn.Embedding(WORDS, 8)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.users(user) * self.items(item)).sum(-1)

    def loss(self, batch: Any) -> Tensor:
        return F.mse_loss(self(batch["user"], batch["item"]), batch["rating"])


# ---------------------------------------------------------------------------------------- generative


class AutoEncoder(Base):
    """A batch is one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(WIDTH)

    def loss(self, batch: Any) -> Tensor:
        return F.mse_loss(self.net(batch), batch)


class VAE(Base):
    """Draws a latent variable in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(8), nn.Linear(4, WIDTH)

    def loss(self, batch: Any) -> Tensor:
        mean, log_variance = self.encoder(batch[0]).chunk(2, -1)
        latent = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        divergence = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum(-1).mean()
        return F.mse_loss(self.decoder(latent), batch[0]) + 0.1 * divergence


class Diffusion(Base):
    """Predicts the noise that it has added, at a time drawn at random."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(WIDTH, WIDTH + 1)

    def loss(self, batch: Any) -> Tensor:
        x = batch[0]
        time, noise = torch.rand(len(x), 1, device=x.device), torch.randn_like(x)
        return F.mse_loss(self.net(torch.cat([(1 - time) * x + time * noise, time], -1)), noise)


class Flow(Base):
    """Minus the log-density, exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.log_scale = nn.Parameter(torch.zeros(WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def loss(self, batch: Any) -> Tensor:
        z = (batch[0] - self.shift) * (-self.log_scale).exp()
        return (0.5 * z**2 + self.log_scale).sum(-1).mean()


# ---------------------------------------------------------------------------------------- pairs and queues


class Contrastive(Base):
    """Two views of each example; the others of the batch are the negatives (SimCLR)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def loss(self, batch: Any) -> Tensor:
        one, two = (F.normalize(self.net(view), dim=-1) for view in batch)
        return F.cross_entropy(one @ two.T / 0.5, torch.arange(len(one), device=one.device))


class Siamese(Base):
    """Anchor, positive, negative."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        return F.triplet_margin_loss(*(self(part) for part in batch))


class MomentumContrast(Base):
    """A momentum encoder and a queue of keys, moved in each step (MoCo)."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.slow = mlp(), mlp().requires_grad_(False)
        self.slow.load_state_dict(self.net.state_dict())
        self.register_buffer("queue", F.normalize(torch.randn(16, CLASSES), dim=-1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def loss(self, batch: Any) -> Tensor:
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                slow.mul_(0.9).add_(fast, alpha=0.1)
            key = F.normalize(self.slow(batch[1]), dim=-1)
        query = F.normalize(self.net(batch[0]), dim=-1)
        logits = torch.cat([(query * key).sum(-1, keepdim=True), query @ self.queue.clone().T], 1) / 0.5
        with torch.no_grad():
            self.queue[(self.place + torch.arange(len(key))) % 16] = key
            self.place.add_(len(key)).remainder_(16)
        return F.cross_entropy(logits, torch.zeros(len(key), dtype=torch.long))


# ---------------------------------------------------------------------------------------- sequences, graphs, text


class CharacterModel(Base):
    """An LSTM over characters, ``(x, y)`` of shape ``[B, T]``."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(WORDS, 8), nn.LSTM(8, 12, batch_first=True)
        self.head = nn.Linear(12, WORDS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(x))[0])

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]).flatten(0, 1), batch[1].flatten())


class CarriedState(CharacterModel):
    """The hidden state is carried from batch to batch, as in truncated backpropagation through time."""

    def __init__(self) -> None:
        super().__init__()
        self.state: Any = None

    def loss(self, batch: Any) -> Tensor:
        hidden, self.state = self.rnn(self.embed(batch[0]), self.state)
        logits = self.head(hidden)
        self.state = tuple(part.detach() for part in self.state)
        return F.cross_entropy(logits.flatten(0, 1), batch[1].flatten())


class Tagger(CharacterModel):
    """A label per token, -100 where there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(tokens))[0])

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch["tokens"]).transpose(1, 2), batch["tags"])


class Speech(Base):
    """Frames, transcripts and their lengths (CTC)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(WIDTH, WORDS)

    def loss(self, batch: Any) -> Tensor:
        frames, words, lengths = batch
        scores = self.net(frames).log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(scores, words, torch.full_like(lengths, frames.shape[1]), lengths, zero_infinity=True)


class Graphs(Base):
    """Graphs of several sizes in one object without a first axis for examples."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(WIDTH, 12), nn.Linear(12, CLASSES)

    def loss(self, batch: Any) -> Tensor:
        start, end = batch.edge_index
        hidden = self.one(batch.x).relu()
        hidden = hidden.index_add(0, end, hidden[start])
        pooled = hidden.new_zeros(len(batch.y), 12).index_add(0, batch.owner, hidden)
        return F.cross_entropy(self.two(pooled), batch.y)


class HuggingFace(Base):
    """``self.model(**batch).loss``."""

    def __init__(self, model: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.model = model()

    def loss(self, batch: Any) -> Tensor:
        return self.model(**batch).loss


def tiny_causal() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, bos_token_id=0, eos_token_id=0, **sizes))


def tiny_masked() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForMaskedLM(BertConfig(vocab_size=WORDS, max_position_embeddings=16, **sizes))


def tiny_seq2seq() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=WORDS, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **sizes)
    return T5ForConditionalGeneration(config)


def tiny_sequence_classifier() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=WORDS, max_position_embeddings=16, num_labels=CLASSES, **sizes)
    return BertForSequenceClassification(config)


# ---------------------------------------------------------------------------------------- rows


def _draw(*shape: int) -> Tensor:
    return torch.randn(*shape)


def _word(*shape: int) -> Tensor:
    return torch.randint(2, WORDS, shape)


def _class() -> Tensor:
    return torch.randint(0, CLASSES, ())


def _shifted(word: Tensor) -> tuple[Tensor, Tensor]:
    return word[:-1], word[1:]


def _target() -> dict[str, Tensor]:
    boxes = int(torch.randint(1, 4, ()))
    return {"boxes": torch.rand(boxes, 4), "labels": torch.randint(0, CLASSES, (boxes,))}


def _text(labels: Tensor) -> dict[str, Tensor]:
    tokens = _word(LENGTH)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}


def _masked() -> dict[str, Tensor]:
    row = _text(_word(LENGTH))
    row["labels"] = torch.where(torch.rand(LENGTH) < 0.5, row["labels"], -100)
    row["labels"][0] = 3
    return row


def _causal() -> dict[str, Tensor]:
    row = _text(_word(LENGTH))
    row["labels"] = row["input_ids"].clone()
    row["labels"][:2] = -100
    return row


def _graph() -> dict[str, Any]:
    nodes = int(torch.randint(2, 5, ()))
    return {"x": _draw(nodes, WIDTH), "edges": torch.randint(0, nodes, (2, 2 * nodes)), "y": _class()}


def _lists(rows: list[Any]) -> Any:
    return tuple(list(part) for part in zip(*rows, strict=True))


def _one_graph(rows: list[Any]) -> SimpleNamespace:
    sizes = torch.tensor([len(row["x"]) for row in rows])
    first = sizes.cumsum(0) - sizes
    return SimpleNamespace(
        x=torch.cat([row["x"] for row in rows]),
        edge_index=torch.cat([row["edges"] + start for row, start in zip(rows, first, strict=True)], 1),
        owner=torch.arange(len(rows)).repeat_interleave(sizes),
        y=torch.stack([row["y"] for row in rows]),
    )


class Rows(Dataset[Any]):
    """Rows drawn once from a seed."""

    def __init__(self, row: Callable[[], Any], seed: int, n: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.rows = [row() for _ in range(n)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


@dataclass(frozen=True)
class Shape:
    """A kind of module, and rows as its ``training_step`` takes them.

    Args:
        make: Makes the module.
        row: Draws a row.
        draws: Whether ``training_step`` draws random numbers.
        loader: Further arguments of loaders.
    """

    make: Callable[[], pl.LightningModule]
    row: Callable[[], Any]
    draws: bool = False
    loader: dict[str, Any] = field(default_factory=dict)

    def module(self) -> pl.LightningModule:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            return self.make()

    def retain(self, n: int = 16, **kwargs: Any) -> DataLoader[Any]:
        return DataLoader(Rows(self.row, 1, n), **{"batch_size": 4, **self.loader, **kwargs})

    def forget(self, n: int = 8, **kwargs: Any) -> DataLoader[Any]:
        return DataLoader(Rows(self.row, 2, n), **{"batch_size": 4, **self.loader, **kwargs})


def _labelled() -> tuple[Tensor, Tensor]:
    return _draw(WIDTH), _class()


SHAPES: dict[str, Shape] = {
    "classifier": Shape(Classifier, _labelled),
    "BatchNorm and dropout": Shape(NormAndDropout, lambda: (_draw(3, 6, 6), _class()), draws=True),
    "no forward": Shape(NoForward, _labelled),
    "embedding as forward": Shape(EmbeddingForward, _labelled),
    "softmax in forward": Shape(SoftmaxForward, _labelled),
    "label smoothing": Shape(LabelSmoothing, _labelled),
    "named inputs with a mask": Shape(
        NamedInputs, lambda: {"x": _draw(WIDTH), "mask": (torch.rand(WIDTH) > 0.5).float(), "labels": _class()}
    ),
    "one logit": Shape(OneLogit, lambda: (_draw(WIDTH), torch.randint(0, 2, ()))),
    "multi-label": Shape(MultiLabel, lambda: (_draw(WIDTH), (torch.rand(CLASSES) > 0.5).float())),
    "mixup": Shape(Mixup, _labelled, draws=True),
    "distillation": Shape(Distillation, _labelled),
    "two tasks": Shape(MultiTask, lambda: {"x": _draw(WIDTH), "kind": _class(), "size": _draw(1)[0]}),
    "metrics and counters": Shape(LoggedMetrics, _labelled),
    "segmentation": Shape(Segmentation, lambda: (_draw(3, 5, 5), torch.randint(0, CLASSES, (5, 5)))),
    "detection": Shape(Detection, lambda: (_draw(3, 6, 6), _target()), loader={"collate_fn": _lists}),
    "regression": Shape(Regression, lambda: (_draw(WIDTH), _draw(1)[0])),
    "forecast": Shape(Forecast, lambda: {"past": _draw(LENGTH), "future": _draw(1)[0]}),
    "recommender": Shape(Recommender, lambda: {"user": _word(1)[0], "item": _word(1)[0], "rating": _draw(1)[0]}),
    "autoencoder": Shape(AutoEncoder, lambda: _draw(WIDTH)),
    "variational autoencoder": Shape(VAE, _labelled, draws=True),
    "diffusion": Shape(Diffusion, _labelled, draws=True),
    "normalizing flow": Shape(Flow, _labelled),
    "contrastive": Shape(Contrastive, lambda: (_draw(WIDTH), _draw(WIDTH))),
    "siamese": Shape(Siamese, lambda: (_draw(WIDTH), _draw(WIDTH), _draw(WIDTH))),
    "momentum encoder and queue": Shape(MomentumContrast, lambda: (_draw(WIDTH), _draw(WIDTH))),
    "character LSTM": Shape(CharacterModel, lambda: _shifted(_word(LENGTH + 1))),
    "hidden state carried along": Shape(CarriedState, lambda: _shifted(_word(LENGTH + 1))),
    "token tagger": Shape(
        Tagger, lambda: {"tokens": _word(LENGTH), "tags": torch.tensor([-100, 0, 1, 2, 3, -100])[torch.randperm(6)]}
    ),
    "speech": Shape(Speech, lambda: (_draw(LENGTH, WIDTH), _word(3), torch.randint(1, 4, ()))),
    "graphs": Shape(Graphs, _graph, loader={"collate_fn": _one_graph}),
    "causal language model": Shape(partial(HuggingFace, tiny_causal), _causal, draws=True),
    "masked language model": Shape(partial(HuggingFace, tiny_masked), _masked, draws=True),
    "T5": Shape(partial(HuggingFace, tiny_seq2seq), lambda: _text(_word(4)), draws=True),
    "Hugging Face classifier": Shape(
        partial(HuggingFace, tiny_sequence_classifier), lambda: _text(_class()), draws=True
    ),
}
