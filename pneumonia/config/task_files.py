"""Read the file of a task for commands that compose no config."""

from pathlib import Path

import yaml

from pneumonia.config.convert import task_node
from pneumonia.errors import ConfigError, nearest
from pneumonia.tasks import TASKS, Task


def load_task(place: str) -> Task:
    """Return a built-in task by its name, or that of a file like those of ``conf/task``.

    Raises:
        ConfigError: There is no such file, or its values are no task.
    """
    if place in TASKS:
        return TASKS[place]
    path = Path(place).expanduser()
    try:
        values = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ConfigError(
            f"{place} is neither a built-in task ({', '.join(TASKS)}) nor the file of one ({reason}). Name the YAML file, as in "
            f"DIR/task/NAME.yaml.{nearest(place, TASKS)}"
        ) from error
    try:
        return task_node({} if values is None else values).build()
    except ConfigError as error:
        raise ConfigError(f"{path} is not the file of a task: {error}") from error
