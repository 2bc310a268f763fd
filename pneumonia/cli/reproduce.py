"""`pneumonia reproduce`: the whole study in one command."""

from pathlib import Path

from pneumonia.cli import wants_help
from pneumonia.cli.hydra_options import refuse_option
from pneumonia.errors import ConfigError

HELP = """
usage: pneumonia reproduce [preset=smoke] [OVERRIDES] [out=DIR]

All sweeps of a preset, then the best configuration of each family (by validation) on the test split, then the report. Kill it,
call it again: what is done is recognised, what was cut goes on. Exit code 1 where a job failed; the report is written all the
same.

  preset=smoke   drawn phantoms, small: minutes on two cores
  preset=cpu     every family at the study's last settings, three seeds, two splits: an hour on two cores; needs data=...
  preset=full    every table of the study at its own settings, for a GPU; needs data=...
  runs_dir=DIR   where the runs go (runs/reproduce-PRESET)
  out=DIR        where the report goes (report/PRESET)

OVERRIDES go to every sweep: data=folder data.root=chest_xray launcher=parallel launcher.n_jobs=2
"""


def run(arguments: list[str]) -> int:
    """Does what is missing of the preset.

    Raises:
        PneumoniaError: With the name of what is wrong.
    """
    if wants_help(arguments, HELP):
        return 0
    own, words = {"preset": "smoke", "runs_dir": "", "out": ""}, []
    for number, argument in enumerate(arguments):
        if argument.startswith("-"):
            refuse_option(argument, arguments[number + 1 :], "reproduce")
        key, found, value = argument.partition("=")
        if key in own:
            if not value:
                raise ConfigError(f"{key} has no value. Say {key}=..., or leave it out.")
            own[key] = value
        elif not found:
            raise ConfigError(
                f"{argument} is not understood; say preset=..., out=..., or key=value as for `pneumonia sweep`."
            )
        else:
            words.append(argument)
    from pneumonia.cli import evaluate, report, sweep
    from pneumonia.sweep.reproduce import read_preset, reproduce

    preset = read_preset(own["preset"])
    runs_dir = Path(own["runs_dir"] or f"runs/reproduce-{preset.name}")
    verbs = {"sweep": sweep.run, "evaluate": evaluate.run, "report": report.run}
    return reproduce(preset, words, runs_dir, Path(own["out"] or f"report/{preset.name}"), verbs)
