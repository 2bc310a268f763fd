# %% [markdown]
# # XOR: why a perceptron is not enough
#
# The lesson that opens the study. An image has a left and a right half, each dark or bright. The class is whether exactly one of
# them is bright. No straight line separates the classes, so a perceptron gets at most three of four cases right. One hidden
# layer suffices.

# %%
import numpy as np
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from pneumonia.models.mlp import MLP
from pneumonia.models.options import ClassifierOptions
from pneumonia.models.perceptron import Perceptron

SIDE = 8
rng = np.random.default_rng(0)
halves = rng.integers(0, 2, (400, 2))
images = np.repeat(halves[:, None, :], SIDE, axis=1).repeat(SIDE // 2, axis=2) * 150 + rng.integers(20, 80, (400, SIDE, SIDE))
samples = [
    {"image": torch.tensor(image[None], dtype=torch.uint8), "label": torch.tensor(int(left != right))}
    for image, (left, right) in zip(images, halves, strict=True)
]
train_loader, val_loader = DataLoader(samples[:300], batch_size=20), DataLoader(samples[300:], batch_size=100)


def accuracy(model) -> float:
    """Train a model and return its accuracy on the other images."""
    trainer = Trainer(
        max_epochs=60,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, train_loader, val_loader)
    return trainer.callback_metrics["val/accuracy"].item()


options = ClassifierOptions(task="pneumonia", image_size=SIDE, optimizer={"_target_": "torch.optim.Adam", "lr": 0.02})
models = [Perceptron(options), MLP(options, hidden=[8])]
scores = {type(model).__name__: round(accuracy(model), 3) for model in models}
scores

# %% [markdown]
# What the two have learned, as the probability of the class over the grey of the two halves:

# %%
import matplotlib.pyplot as plt

greys = torch.linspace(0, 255, 64)
left, right = torch.meshgrid(greys, greys, indexing="ij")
grid = (
    torch.stack([left.flatten(), right.flatten()], dim=1)[:, None, None, :]
    .repeat(1, 1, SIDE, 1)
    .repeat_interleave(SIDE // 2, dim=3)
)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for axis, model in zip(axes, models, strict=True):
    name = type(model).__name__
    with torch.inference_mode():
        surface = model.eval()(grid).softmax(dim=1)[:, 1].reshape(64, 64).T
    shown = axis.imshow(surface, origin="lower", extent=(0, 255, 0, 255), cmap="RdBu_r", vmin=0, vmax=1)
    means = images.reshape(400, SIDE, 2, SIDE // 2).mean(axis=(1, 3))
    axis.scatter(*means.T, c=halves[:, 0] != halves[:, 1], cmap="RdBu_r", edgecolors="black", s=14)
    axis.set(title=f"{name}, accuracy {scores[name]:.2f}", xlabel="grey of the left half", ylabel="grey of the right half")
_ = figure.colorbar(shown, ax=axes, label="probability that one half is bright")
