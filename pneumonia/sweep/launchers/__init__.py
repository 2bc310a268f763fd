"""Launchers: run the jobs of a sweep here, in parallel, with SLURM or with Ray."""
