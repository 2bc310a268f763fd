"""Experiment trackers as mirrors of the run folder."""
