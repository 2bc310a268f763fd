# %% [markdown]
# # Your own callback
#
# A callback of Lightning sees every batch and every metric. Its state is kept in `last.ckpt`, if `state_dict` returns plain
# values.

# %%
from lightning.pytorch.callbacks import Callback

from pneumonia import compose, train


class GradientNorm(Callback):
    """Keep the largest norm of the gradient in each epoch."""

    def __init__(self) -> None:
        self.largest: list[float] = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.largest.append(0.0)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        norm = sum(float(weight.grad.norm()) ** 2 for weight in pl_module.parameters() if weight.grad is not None) ** 0.5
        self.largest[-1] = max(self.largest[-1], norm)


norms = GradientNorm()
config = compose("model=mlp", "data.phantom.patients=60", "image_size=32", "max_epochs=4", "name=own_callback", "force=true")
result = train(config, callbacks=[norms])
[round(norm, 2) for norm in norms.largest]

# %% [markdown]
# On the command line, with its module on `PYTHONPATH`: `pneumonia train +callbacks.norm._target_=my_package.GradientNorm`, or
# a file `DIR/callbacks/norm.yaml` and `--config-dir DIR callbacks=norm`.
