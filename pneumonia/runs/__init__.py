"""Run folders: identity, contents, results, ensembles, backup."""
