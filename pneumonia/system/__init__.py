"""The machine and the process: console, files, threads, signals, memory, devices."""
