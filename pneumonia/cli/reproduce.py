"""`pneumonia reproduce`: run the whole study with one command."""

from pathlib import Path

from pneumonia import cli
from pneumonia.cli.hydra_options import refuse_option
from pneumonia.errors import ConfigError

HELP = """
usage: pneumonia reproduce [preset=smoke] [OVERRIDES] [out=DIR]

Run all sweeps of a preset, evaluate the best configuration of each family (by validation) on the test split, write the report.
Safe to interrupt: rerun the command to skip finished jobs and resume interrupted ones. Exit code 1 if a job failed; the report
is written all the same.

  preset=smoke   small, on phantoms: minutes on two cores
  preset=cpu     every family at the study's last settings, three seeds, two splits: an hour on two cores; needs data=...
  preset=full    every table of the study at its own settings, for a GPU; needs data=...
  runs_dir=DIR   folder of the runs (runs/reproduce-PRESET)
  out=DIR        folder of the report (report/PRESET)

OVERRIDES apply to every sweep: data=folder data.root=chest_xray launcher=parallel launcher.n_jobs=2
"""


def run(arguments: list[str]) -> int:
    """Run the unfinished steps of a preset.

    Raises:
        PneumoniaError: Bad input.
    """
    if cli.wants_help(arguments, HELP):
        return 0
    own, overrides = {"preset": "smoke", "runs_dir": "", "out": ""}, []
    for number, argument in enumerate(arguments):
        if argument.startswith("-"):
            refuse_option(argument, arguments[number + 1 :], "reproduce")
        key, found, value = argument.partition("=")
        if key in own:
            if not value:
                raise ConfigError(f"{key} has no value. Set {key}=..., or leave it out.")
            own[key] = value
        elif not found:
            raise ConfigError(f"{argument} is not key=value. Use preset=..., out=..., or an override of `pneumonia sweep`.")
        else:
            overrides.append(argument)
    from pneumonia.sweep.reproduce import read_preset, reproduce

    preset = read_preset(own["preset"])
    runs_dir = Path(own["runs_dir"] or f"runs/reproduce-{preset.name}")
    return reproduce(preset, overrides, runs_dir, Path(own["out"] or f"report/{preset.name}"), cli.run)
