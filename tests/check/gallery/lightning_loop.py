"""A Lightning module as most people write it. Its loss is found without being told."""

import os
import sys
import warnings

import lightning
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

BUG = sys.argv[1] if len(sys.argv) > 1 else ""
WORKERS = int(os.environ.get("WORLD_SIZE", "1"))


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 3))

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        loss = F.cross_entropy(self.net(inputs), targets)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main():
    warnings.filterwarnings("ignore")
    lightning.seed_everything(0, verbose=False)
    samples = {"short_last_window": 50, "mean_of_means": 60}.get(BUG, 64)
    loader = DataLoader(TensorDataset(torch.randn(samples, 5), torch.randint(0, 3, (samples,))), batch_size=8, shuffle=True,
                        drop_last=BUG == "short_last_window")  # fmt: skip
    trainer = lightning.Trainer(
        accelerator="cpu",
        strategy="ddp" if WORKERS > 1 else "auto",
        devices=WORKERS,
        max_epochs=2,
        accumulate_grad_batches=2,
        gradient_clip_val=0.5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), loader)


main()
