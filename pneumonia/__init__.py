"""Train, compare and trust chest X-ray classifiers: normal, viral or bacterial pneumonia."""

__version__ = "0.1.0"
