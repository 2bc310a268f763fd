"""Evaluate finished runs and explain their predictions."""
