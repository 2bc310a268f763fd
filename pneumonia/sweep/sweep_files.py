"""Find and read sweep files: their questions, config choices and swept keys. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf
from yaml import YAMLError

from pneumonia.config.keys import check_config_dir, conf_dir
from pneumonia.errors import ConfigError, nearest

# Keys that all jobs of a sweep share: they say where its state is and how it runs.
SHARED_KEYS: Final = ("name", "runs_dir", "launcher", "search", "fail_fast", "dry_run", "force", "backup")
EXAMPLE: Final = "See sweeps/optimizer.yaml for an example."


@dataclass(frozen=True)
class SweepFile:
    """A sweep file.

    Attributes:
        path: Of the file.
        choices: The config file that it chooses, by group.
        sets_name: Whether it sets ``name``.
        swept: Swept keys and their values, as in overrides.
        config_dir: A folder with config groups of the user's own.
    """

    path: Path
    choices: dict[str, str]
    sets_name: bool
    swept: dict[str, str]
    config_dir: Path | None = None

    @property
    def folders(self) -> list[Path]:
        """The folders with config groups; of two files with one name the first counts."""
        return [conf_dir(), self.path.parent, *([self.config_dir] if self.config_dir else [])]


def sweep_names() -> list[str]:
    """Return the names of the packaged sweeps."""
    return sorted(path.stem for path in conf_dir("sweeps").glob("*.yaml"))


def find_sweep(name: str, config_dir: Path | None = None) -> Path:
    """Return the file of a sweep: of a packaged one or one of ``config_dir`` by its name, of any other by its path.

    Raises:
        ConfigError: There is no such file, or there are two.
    """
    if config_dir is not None:
        check_config_dir(config_dir)
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ConfigError(f"There is no sweep file {name}.")
        return Path(name).resolve()
    known = sweep_names()
    packaged = conf_dir("sweeps") / f"{name}.yaml"
    own_names = [path.stem for path in config_dir.glob("*.yaml")] if config_dir else []
    if config_dir is not None and name in own_names:
        own = config_dir / f"{name}.yaml"
        if name in known and not own.samefile(packaged):
            raise ConfigError(
                f"{name} is a packaged sweep and a file of {config_dir}. Rename yours, or name it by its path, {own}."
            )
        return own.resolve()
    if name in known:
        return packaged
    if Path(f"{name}.yaml").is_file():
        raise ConfigError(f"There is no sweep '{name}'. Name a file of your own with its extension: {name}.yaml.")
    place = f" in {config_dir}" if config_dir else ""
    raise ConfigError(
        f"There is no sweep '{name}'{place}; choose one of {', '.join(known)}, or name a file of your own by its path."
        f"{nearest(name, [*known, *own_names])}"
    )


def question(path: Path) -> str:
    """Return the question on the first line of a sweep file."""
    line = path.read_text(encoding="utf-8").partition("\n")[0]
    return line.lstrip("# ").partition("   ")[0] if line.startswith("#") else path.stem


def read_sweep_file(path: Path, config_dir: Path | None = None) -> SweepFile:
    """Read a sweep file, whose jobs may use the groups of ``config_dir``.

    Raises:
        ConfigError: It is no sweep file, or it sweeps over another sweep.
    """
    try:
        loaded: Any = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, YAMLError) as error:
        raise ConfigError(f"{path} can't be read as YAML: {error}") from error
    if not isinstance(loaded, dict) or not loaded:
        raise ConfigError(f"{path} is not a sweep file: it has no keys. {EXAMPLE}")
    defaults = loaded.get("defaults")
    if not isinstance(defaults, list) or not any(isinstance(item, str) for item in defaults):
        raise ConfigError(f"{path} has no `defaults: [train, _self_]`, so its jobs would have no config. {EXAMPLE}")
    bases = [item.lstrip("/") for item in defaults if isinstance(item, str) and item != "_self_"]
    sweeps = sweep_names()
    if "train" not in bases and not set(bases) & set(sweeps):
        raise ConfigError(
            f"{path} extends {', '.join(bases) or 'nothing'}, and a sweep extends train: `defaults: [train, _self_]`."
            f"{nearest(bases[0], ['train']) if bases else ''}"
        )
    if inner := next((base for base in bases if base in sweeps), None):
        raise ConfigError(
            f"{path} extends the sweep {inner}: a sweep over sweeps would lose the inner one. Write all its values into one "
            "file, over train."
        )
    items = [item for choice in defaults if isinstance(choice, dict) for item in choice.items()]
    choices = {str(key).removeprefix("override ").lstrip("/"): str(value) for key, value in items}
    return SweepFile(path, choices, "name" in loaded, _swept(loaded, path), config_dir)


def _swept(loaded: Any, path: Path) -> dict[str, str]:
    """Return the content of ``hydra.sweeper.params``."""
    node = loaded
    for key in ("hydra", "sweeper", "params"):
        node = node.get(key) or {}
        if not isinstance(node, dict):
            raise ConfigError(f"{path}: {key} under hydra is not a mapping. Write `seed: 0,1,2` below hydra.sweeper.params.")
    for key, value in node.items():
        if str(key).lstrip("+~").startswith(("hydra", "sweep")):
            raise ConfigError(f"{path} sweeps over {key}: a sweep over sweeps would lose the inner one. Use keys of a run.")
        if isinstance(value, dict) or value is None:
            raise ConfigError(f"{path} gives {key} no values. Write them with commas between them: `{key}: a,b,c`.")
    return {str(key): str(value) for key, value in node.items()}
