"""Progress on the terminal."""

import time

import pytest
from rich.console import Console

from pneumonia.system import console


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_shown_only_after_its_delay(monkeypatch, capsys, terminal):
    monkeypatch.setattr(console, "CONSOLE", Console(stderr=True, force_terminal=terminal, width=100))
    assert list(console.track(range(5), 5, "quick", after_s=60)) == list(range(5))
    assert list(console.track([], 0, "none", after_s=60)) == []
    assert capsys.readouterr().err == ""
    slow = (time.sleep(0.01) or number for number in range(20))
    assert list(console.track(slow, 20, "slow", after_s=0.05)) == list(range(20))
    assert "slow" in capsys.readouterr().err
    assert list(console.track(range(3), 3, "at once")) == list(range(3))
    assert "at once" in capsys.readouterr().err
