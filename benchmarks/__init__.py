"""Speed, side by side in one run: `make bench` and the scripts of single parts."""
