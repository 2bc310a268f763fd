"""From a finished run to files that answer without torch, and prove that they are the same model."""
