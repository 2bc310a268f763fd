"""Render documents as HTML, Markdown and PDF."""
