"""Export a finished run as a bundle that runs without torch."""
