"""Compose the configs of a sweep's jobs as Hydra does, but in a fraction of the time."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict

from pneumonia.config.compose import hydra_session, typed
from pneumonia.config.error_translation import translated
from pneumonia.config.group_choices import check_choices
from pneumonia.config.keys import conf_dir, config_groups
from pneumonia.config.schema import TrainConfig
from pneumonia.sweep.sweep_files import SweepFile
from pneumonia.sweep.swept_overrides import parse_overrides


class JobComposer:
    """Compose the config of a job from its differences.

    Hydra composes once for each set of chosen files (0.25 s each); other values are then set as Hydra sets them.

    Args:
        file: Sweep file.
        fixed: Overrides of all jobs.
    """

    def __init__(self, file: SweepFile, fixed: Sequence[str]) -> None:
        self.file = file
        self.fixed = fixed
        self.groups = set(config_groups())
        own = file.config_dir.iterdir() if file.config_dir else ()
        self.added_groups = {entry.name for entry in own if entry.is_dir()} - self.groups
        self._composed: dict[tuple[str, ...], tuple[DictConfig, dict[str, str]]] = {}

    @translated()
    def __call__(self, differs: Mapping[str, str]) -> TrainConfig:
        files = tuple(f"{key}={value}" for key, value in differs.items() if key in self.groups)
        files += tuple(f"+{key}={value}" for key, value in differs.items() if key in self.added_groups)
        if files not in self._composed:
            self._composed[files] = self._compose([*self.fixed, *files])
        shared, choices = self._composed[files]
        config = copy.deepcopy(shared)
        values = [f"{key}={value}" for key, value in differs.items() if key not in self.groups | self.added_groups]
        for override in parse_overrides(values):
            OmegaConf.update(config, override.get_key_element(), override.value(), merge=True)
        return typed(config, choices, self.file.folders)

    def _compose(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
        """Return a config and the chosen file of each group.

        Hydra takes any folder beside a config file for a group, and any file there for the one of that name in conf/. So its
        search path has the sweep file alone, then conf/, then the groups and the other files beside the sweep file, and
        last ``--config-dir``, all of it.
        """
        check_choices(overrides)
        packaged = {entry.stem for entry in conf_dir().glob("*.yaml")} | {"schema"}
        path = self.file.path
        primary = "sweep_file" if path.stem in packaged else path.stem
        with TemporaryDirectory() as folder:
            main, own = Path(folder, "main"), Path(folder, "own")
            main.mkdir()
            own.mkdir()
            (main / f"{primary}.yaml").symlink_to(path)
            for entry in path.parent.iterdir():
                if entry.name in self.groups or (entry.suffix == ".yaml" and entry.stem not in packaged):
                    (own / entry.name).symlink_to(entry)
            folders = [conf_dir(), own]
            if self.file.config_dir:
                folders.append(Path(folder, "config_dir"))  # a path without spaces or commas
                folders[-1].symlink_to(self.file.config_dir.resolve())
            search_path = f"hydra.searchpath=[{','.join(f'file://{one}' for one in folders)}]"
            with hydra_session(main):
                config = compose(primary, [search_path, *overrides], return_hydra_config=True)
        choices = {str(group): str(choice) for group, choice in config.hydra.runtime.choices.items()}
        with open_dict(config):
            del config["hydra"]
        return config, choices
