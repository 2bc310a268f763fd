"""`pneumonia track push`: bad options are refused before anything is sent."""

import pytest

from pneumonia.cli import run
from pneumonia.errors import ConfigError

pytest.importorskip("mlflow")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [],
            r"MLflow needs the address .* Use --tracking-uri http://HOST:PORT or --tracking-uri sqlite:///mlflow\.db",
        ),
        (["--tracking-uri", "http://a:b@host"], r"--tracking-uri http://\.\.\.@host holds a password"),
    ],
)
def test_address_of_mlflow_is_checked_first(options, message, finished, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match=message):
        run(["track", "push", str(finished), "--to", "mlflow", *options])
    assert not (finished / "mlflow.json").exists()
