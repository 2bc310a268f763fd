"""Metrics, calibration, thresholds, confidence intervals and significance tests."""
