"""Decode image files into grey images, within limits."""
