"""Typed configuration: schema, composition and validation."""
