"""Train, compare and trust chest X-ray classifiers: normal, viral or bacterial pneumonia."""

from pathlib import Path

__version__ = "0.2.0"

_ROOT = Path(__file__).resolve().parent.parent
if not Path(__file__).with_name("conf").is_dir() and (_ROOT / "conf").is_dir():
    __path__.append(str(_ROOT))  # in a checkout, so that Hydra finds pneumonia.conf as it does in the wheel
