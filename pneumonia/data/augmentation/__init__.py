"""Augment training images.

A new augmentation needs a strength in ``AugmentationConfig`` (pneumonia/config/schema.py), its values in the files of
conf/augmentation, a step in ``albumentations_pipeline``
(the reference) and the same step for whole batches in ``torch_pipeline``.
"""
