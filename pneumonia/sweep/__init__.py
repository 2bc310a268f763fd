"""Sweeps: many runs from one question, each done once, whatever is killed on the way."""
