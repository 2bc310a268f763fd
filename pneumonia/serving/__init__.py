"""Serve a bundle over HTTP without torch, Lightning or Hydra."""
