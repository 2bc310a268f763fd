"""Names that configs, files and messages share. Imports nothing, so that every room can read them."""

from typing import Final

NORMALISATIONS: Final = ("minus_one_one", "minmax", "zscore", "robust", "imagenet")
RESIZES: Final = ("stretch", "pad")
ON_BAD_IMAGE: Final = ("error", "skip")
TTA: Final = ("none", "flip", "shift")
CLASS_MEANS: Final = ("val/f1_macro", "val/recall_macro", "val/auroc")  # undefined while a class has no image
MONITORS: Final = ("val/loss", "val/accuracy", *CLASS_MEANS)
