"""`python -m pneumonia` is `pneumonia`."""

from pneumonia.cli import main

main()
