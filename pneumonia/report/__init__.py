"""Run folders in, pages out; needs no GPU and no torch."""
