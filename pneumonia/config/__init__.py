"""Typed configuration: schema, composition and validation.

:func:`pneumonia.config.compose.compose` is the one way from overrides to a config::

    config = compose("model=mlp", "optimizer.lr=1e-3")  # a TrainConfig
    config.optimizer.lr, config.split.rules.rotates, config.data.root

:class:`~pneumonia.config.schema.TrainConfig` is a tree of dataclasses. Its nodes ``model``, ``optimizer``, ``scheduler``,
``trainer``, ``logger`` and ``launcher`` are instances of the class of the chosen file (:mod:`pneumonia.config.choices`), or of
a class made from the keys of a file of your own. Change values with :func:`dataclasses.replace`.
:func:`pneumonia.config.convert.to_plain` returns the nested dict for JSON and YAML, ``from_plain`` reads it back, for example
from ``result.json``, and ``identity`` returns what can change a result. Nothing here imports torch, and only
:mod:`~pneumonia.config.compose` and :mod:`~pneumonia.config.error_translation` import Hydra.
"""
