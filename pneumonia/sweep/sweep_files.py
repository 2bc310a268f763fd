"""Sweep files: which there are, what each asks, and which keys it sweeps over; imports nothing heavy."""

from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf
from yaml import YAMLError

from pneumonia.config.schema import conf_dir
from pneumonia.errors import ConfigError, nearest

# One folder, one place to run, one way to go on: with several of these the jobs of a sweep could not find each other.
OF_THE_SWEEP: Final = ("name", "runs_dir", "launcher", "search", "fail_fast", "rehearse", "force", "backup")
EXAMPLE: Final = "sweeps/optimizer.yaml shows how one looks."


def sweep_names() -> list[str]:
    """The sweeps that come with the package."""
    return sorted(path.stem for path in conf_dir("sweeps").glob("*.yaml"))


def find_sweep(name: str) -> Path:
    """The file of a sweep: one that comes with the package, or one's own by its path.

    Raises:
        ConfigError: There is none.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ConfigError(f"There is no sweep file {name}.")
        return Path(name).resolve()
    known = sweep_names()
    if name in known:
        return conf_dir("sweeps") / f"{name}.yaml"
    if Path(f"{name}.yaml").is_file():
        raise ConfigError(f"There is no sweep '{name}'. A file of your own is named with its ending: {name}.yaml.")
    raise ConfigError(
        f"There is no sweep '{name}'; choose one of {', '.join(known)}, or name a file of your own by its path."
        f"{nearest(name, known)}"
    )


def question(path: Path) -> str:
    """The first line of a sweep file, which says what it asks."""
    line = path.read_text(encoding="utf-8").partition("\n")[0]
    return line.lstrip("# ").partition("   ")[0] if line.startswith("#") else path.stem


def chosen_files(path: Path) -> list[str]:
    """The choices of config files that a sweep file makes, as words of ``pneumonia train``."""
    chosen = [item for item in _loaded(path)["defaults"] if isinstance(item, dict)]
    return [
        f"{str(key).removeprefix('override ').lstrip('/')}={value}" for item in chosen for key, value in item.items()
    ]


def names_its_folder(path: Path) -> bool:
    """Whether a sweep file says ``name:``; else its own name will do."""
    return "name" in _loaded(path)


def swept_keys(path: Path) -> dict[str, Any]:
    """The swept keys of a sweep file, with the values as they are written there.

    Raises:
        ConfigError: The file is no sweep file, or sweeps over what all its jobs must share.
    """
    loaded = _loaded(path)
    for base in loaded["defaults"]:
        if isinstance(base, str) and base.lstrip("/") in sweep_names():
            raise ConfigError(
                f"{path} extends the sweep {base}: a sweep over sweeps would lose the inner one. Write all its values into one "
                "file, over train."
            )
    node: Any = loaded
    for key in ("hydra", "sweeper", "params"):
        node = node.get(key) or {}
        if not isinstance(node, dict):
            raise ConfigError(
                f"{path}: {key} under hydra is no table of keys and values. Write `seed: 0,1,2` below hydra.sweeper.params."
            )
    for key, value in node.items():
        if str(key).lstrip("+~").startswith(("hydra", "sweep")):
            raise ConfigError(
                f"{path} sweeps over {key}: a sweep over sweeps would lose the inner one. Use keys of a run."
            )
        if isinstance(value, dict) or value is None:
            raise ConfigError(f"{path} gives {key} no values. Write them with commas between them: `{key}: a,b,c`.")
    return {str(key): value for key, value in node.items()}


def _loaded(path: Path) -> dict[str, Any]:
    """The keys of a sweep file, ``defaults`` among them."""
    try:
        loaded: Any = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, YAMLError) as error:
        raise ConfigError(f"{path} can't be read as YAML: {error}") from error
    if not isinstance(loaded, dict) or not loaded:
        raise ConfigError(f"{path} is no sweep file: it holds no keys. {EXAMPLE}")
    defaults = loaded.get("defaults")
    if not isinstance(defaults, list) or not any(isinstance(item, str) for item in defaults):
        raise ConfigError(f"{path} has no `defaults: [train, _self_]`, so its jobs would have no settings. {EXAMPLE}")
    bases = [item.lstrip("/") for item in defaults if isinstance(item, str) and item != "_self_"]
    if "train" not in bases and not set(bases) & set(sweep_names()):
        raise ConfigError(
            f"{path} extends {', '.join(bases) or 'nothing'}, and a sweep extends train: `defaults: [train, _self_]`."
            f"{nearest(bases[0], ['train']) if bases else ''}"
        )
    return loaded
