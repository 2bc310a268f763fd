"""The packaged config files: ``hydra.initialize_config_module("pneumonia.conf")``. Importing it registers their schema."""

from pneumonia.config.compose import register_schema

register_schema()
