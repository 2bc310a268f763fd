# %% [markdown]
# # Predict and explain
#
# `load_run` opens a finished run: its result, its curves, its model. `predict` reads image files, decodes them as in training and
# calibrates the probabilities where that is defined.

# %%
from pathlib import Path

import pandas as pd
from PIL import Image

from pneumonia import compose, load_run, train

config = compose(
    "model=simple_cnn", "data.phantom.patients=60", "image_size=48", "max_epochs=6", "batch_size=16", "name=explained"
)
result = train(config)
run = load_run(f"runs/explained/{result.run_id}")
history: pd.DataFrame = run.history()
history[["train/loss", "val/loss", "val/accuracy"]].round(3)

# %%
images = sorted(Path("cache").rglob("*.jpeg"))[::40][:4]  # drawn phantoms; use your own files
run.predict(images)[["predicted", "prob_NORMAL", "prob_VIRUS", "prob_BACTERIA"]].round(3)

# %% [markdown]
# Grad-CAM maps of convolutional networks, weights of linear ones. On the command line:
# `pneumonia predict RUN a.jpeg --explain DIR`.

# %%
from pneumonia.evaluation.explanations import draw_explanations
from pneumonia.runs.predictions import predict_file

classifier = run.load_model()
pixels = [predict_file(classifier, path)[0] for path in images[:1]]
pictures = draw_explanations(classifier, pixels, images[:1], ["a phantom"], Path("explanations"))
Image.open(pictures[0])
