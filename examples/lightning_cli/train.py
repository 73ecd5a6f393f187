import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Classifier(pl.LightningModule):
    def __init__(self, width: int = 32, lr: float = 1e-2):
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


class Measurements(pl.LightningDataModule):
    def __init__(self, seed: int = 0, n: int = 32):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randn(n, 8, generator=generator), torch.randint(0, 4, (n,), generator=generator)
        self.rows = TensorDataset(x, y)

    def train_dataloader(self):
        return DataLoader(self.rows, batch_size=8)


if __name__ == "__main__":
    LightningCLI(Classifier, Measurements, seed_everything_default=0, save_config_kwargs={"overwrite": True})
