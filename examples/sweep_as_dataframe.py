# %% [markdown]
# # Read a sweep as a DataFrame
#
# Each run has its folder, so a table of runs is read from the folders alone. `pneumonia sweep NAME` and `pneumonia train -m` make
# the same folders; here three seeds of two models are trained in a loop. A finished run is not trained again.

# %%
import itertools

from pneumonia import compose, list_runs, train

small = ["data.phantom.patients=150", "image_size=32", "max_epochs=6", "batch_size=16", "name=two_models"]
for model, seed in itertools.product(("mlp", "pseudo_resnet"), range(3)):
    train(compose(*small, f"model={model}", f"seed={seed}"))

# %%
runs = list_runs("runs/two_models")
runs[["model", "seed", "state", "best_epoch", "val/accuracy", "val/f1_macro", "cost.fit_s"]].round(3)

# %%
runs.groupby("model")["val/f1_macro"].agg(["mean", "std", "count"]).round(3)

# %%
_ = runs.boxplot("val/f1_macro", by="model", grid=False)

# %% [markdown]
# `pneumonia report runs/two_models` says which differences are significant, with intervals over patients.
