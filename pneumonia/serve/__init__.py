"""A bundle behind HTTP, and a page: imports neither torch, Lightning nor Hydra."""
