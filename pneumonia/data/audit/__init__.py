"""Audit a dataset for leakage, duplicates and shortcuts."""
