"""Assign images to subsets and folds, and refuse leakage."""
