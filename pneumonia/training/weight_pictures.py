"""Draw the weights after each epoch, for families whose weights are images."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from pneumonia.models.base import Classifier
from pneumonia.models.weight_images import weights_picture
from pneumonia.runs.folder import RunFolder
from pneumonia.system.files import replacing


class WeightPictures(Callback):
    """Write a picture of the weights into the run folder after each epoch."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = pl_module.weight_images() if isinstance(pl_module, Classifier) else {}
        if weights and trainer.is_global_zero:
            epoch = trainer.current_epoch + 1
            page = weights_picture(weights, f"{type(pl_module).__name__}, epoch {epoch} of {trainer.max_epochs}")
            with replacing(self.folder.weight_picture(epoch)) as part:
                page.save(part, "PNG")
