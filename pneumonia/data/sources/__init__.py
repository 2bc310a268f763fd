"""Releases, folders, tables, archives and synthetic phantoms that X-rays are read from."""
