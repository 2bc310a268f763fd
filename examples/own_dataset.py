# %% [markdown]
# # Your own data
#
# A folder with one subfolder per class needs nothing: `data=folder data.root=DIR`. Images elsewhere need a table with a row per
# image. With `patient_id`, patients are kept apart. Here the images are drawn.

# %%
from pathlib import Path

import numpy as np
import pandas as pd
from lightning.pytorch import Trainer
from PIL import Image

from pneumonia import XRayDataModule, build_model, compose

rng = np.random.default_rng(0)
folder = Path("my_images")
folder.mkdir(exist_ok=True)
rows = []
for patient in range(60):
    label = ("normal", "virus", "bacteria")[patient % 3]
    for visit in range(2):
        grey = rng.normal(90 + 30 * (patient % 3), 25, (64, 64)).clip(0, 255).astype(np.uint8)
        name = f"{patient:03d}-{visit}.png"
        Image.fromarray(grey).save(folder / name)
        rows.append({"path": name, "label": label, "patient_id": f"P{patient}"})
table = pd.DataFrame(rows)
table.to_csv(folder / "labels.csv", index=False)
table.head(3)

# %%
config = compose("data=folder", f"data.root={folder}", f"data.labels={folder / 'labels.csv'}", "model=mlp")
datamodule = XRayDataModule(config.data, config.split, image_size=32, batch_size=16)
model = build_model(config, datamodule)
Trainer(
    max_epochs=5,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
).fit(model, datamodule)
datamodule.images.manifest[["image_id", "label", "patient_id"]].head(3)

# %% [markdown]
# No patient is in two subsets:

# %%
manifest = datamodule.images.manifest
patients = {subset: set(manifest["patient_id"].iloc[datamodule.positions(subset)]) for subset in ("train", "val", "test")}
{subset: len(found) for subset, found in patients.items()}, patients["train"] & patients["test"]
