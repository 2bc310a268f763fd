"""Copies of a real run, with a config and results that a test chooses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

CopyRun = Callable[..., Path]


@pytest.fixture(scope="session")
def copy_run(finished: Path) -> CopyRun:
    """Copies the small finished run: copy_run(runs / "a" / "1", {"optimizer.lr": 0.1}, f1_macro=0.5)."""
    held = json.loads((finished / "result.json").read_text())
    history = (finished / "metrics.csv").read_text()

    def copy(folder: Path, config: dict[str, Any] | None = None, result: bool = True, **metrics: float | None) -> Path:
        folder.mkdir(parents=True)
        changed = json.loads(json.dumps(held))
        for key, value in (config or {}).items():
            *above, last = key.split(".")
            node = changed["config"]
            for part in above:
                node = node[part]
            node[last] = value
        changed["metrics"]["val"] |= metrics
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(changed["config"])))
        (folder / "metrics.csv").write_text(history)
        if result:
            (folder / "result.json").write_text(json.dumps(changed))
        return folder

    return copy
