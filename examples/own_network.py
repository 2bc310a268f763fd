# %% [markdown]
# # Your own network
#
# A family is a subclass of `Classifier` that builds a `network` with one logit per class. Losses, metrics, schedules, weight
# averaging, checkpoints and test-time augmentation come with the base class.

# %%
from lightning.pytorch import Trainer
from torch import nn

from pneumonia import XRayDataModule, compose
from pneumonia.models.base import Classifier
from pneumonia.models.options import ClassifierOptions


class Thumbnail(Classifier):
    """Mean grey of side x side squares, then dense layers."""

    def __init__(self, options: ClassifierOptions | None = None, *, side: int = 8, hidden: int = 32) -> None:
        super().__init__(options)
        self.network = nn.Sequential(
            nn.AdaptiveAvgPool2d(side),
            nn.Flatten(),
            nn.Linear(self.options.channels * side**2, hidden),
            nn.ReLU(),
            nn.Linear(hidden, len(self.task.classes)),
        )


# %%
config = compose("data.phantom.patients=60", "augmentation=clinical")
datamodule = XRayDataModule(config.data, config.split, image_size=32, batch_size=16, augmentation=config.augmentation)
model = Thumbnail(ClassifierOptions(image_size=32, optimizer={"_target_": "torch.optim.AdamW", "lr": 3e-3}), side=8)
trainer = Trainer(
    max_epochs=5,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, datamodule)
round(trainer.callback_metrics["val/f1_macro"].item(), 3)

# %% [markdown]
# On the command line the class needs a file, `DIR/model/thumbnail.yaml`, and its module on `PYTHONPATH`:
#
# ```yaml
# _target_: my_package.Thumbnail
# side: 8
# hidden: 32
# ```
#
# ```
# pneumonia train --config-dir DIR model=thumbnail model.side=16
# pneumonia sweep families --config-dir DIR
# ```
