"""`pneumonia sweep NAME`: every job of sweeps/NAME.yaml, as a Hydra multirun. Finished jobs are recognised, cut ones go on."""

from pneumonia.cli import wants_help
from pneumonia.errors import ConfigError, nearest

HELP = """
usage: pneumonia sweep NAME [OVERRIDES]

Every job of sweeps/NAME.yaml, one after the other, into runs/NAME. Run it again: finished jobs are recognised, a cut one
goes on where it was. OVERRIDES are those of `pneumonia train`.

Example:
  pneumonia sweep optimizer data=folder data.root=chest_xray max_epochs=2
"""


def run(arguments: list[str]) -> int:
    """Runs the named sweep.

    Raises:
        ConfigError: There is no such sweep.
    """
    if wants_help(arguments, HELP):
        return 0
    from pneumonia.config import conf_dir

    folder = conf_dir("sweeps")
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if not arguments or arguments[0] not in names:
        asked = arguments[0] if arguments else ""
        raise ConfigError(f"There is no sweep '{asked}'; choose one of {', '.join(names)}.{nearest(asked, names)}")
    from pneumonia.cli import train

    return train.run(arguments[1:], config_name=arguments[0], config_dir=folder)
