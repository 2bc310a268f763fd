"""Sweeps: plan many runs, run each once with any launcher, and resume after an interruption."""
