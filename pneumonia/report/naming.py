"""Name the configurations of a report by their differences; names are unique."""

from collections.abc import Sequence

from pneumonia.config.convert import dotted, identity
from pneumonia.report.entries import REPEATED, Entry


def labels_of(entries: Sequence[Entry], common: Sequence[str] = ()) -> list[str]:
    """Return unique names of configurations, made of their differences in their sweeps.

    Args:
        entries: One of each configuration.
        common: Keys that all share, whatever their sweeps say of them.
    """
    varying = {
        key
        for key in {key for entry in entries for key in entry.differs}
        if key.partition(".")[0] not in common and len({entry.differs.get(key) for entry in entries}) > 1
    }
    several = len({entry.family for entry in entries}) > 1
    labels = []
    for entry in entries:
        differences = [_difference(key, value) for key, value in entry.differs.items() if key in varying or entry.joined]
        named = not several or entry.joined or any(key in varying for key in ("experiment", "model") if key in entry.differs)
        label = " ".join(differences if named or not differences else [entry.family, *differences])
        labels.append(label or f"{entry.family} ({entry.sweep})")
    for number, entry in enumerate(entries):
        if labels.count(labels[number]) > 1 and entry.sweep not in labels[number] and not entry.joined:
            labels[number] += f" ({entry.sweep})"
    for twin in {label for label in labels if labels.count(label) > 1}:
        twins = [number for number, other in enumerate(labels) if other == twin]
        settings = [dotted(identity(entries[number].config)) for number in twins]
        apart = [key for key in settings[0] if len({str(one.get(key)) for one in settings}) > 1 and key not in REPEATED]
        for number, own in zip(twins, settings, strict=True):
            more = " ".join(f"{key}={own.get(key)}" for key in apart[:2])
            more = more or _of_members(entries[number]) or entries[number].configuration[:4]
            labels[number] = f"{twin} {more}"
    known: dict[str, int] = {}
    for number, name in enumerate(labels):
        known[name] = known.get(name, 0) + 1
        if known[name] > 1:
            labels[number] = f"{name} {entries[number].configuration[:6]}"
    return labels


def _of_members(entry: Entry) -> str:
    """``of seeds 0, 1``, or of folds."""
    for key in ("seed", "fold"):
        values = sorted({getattr(member, key) for member in entry.joined})
        if len(values) > 1:
            return f"of {key}s {', '.join(map(str, values))}"
    return ""


def _difference(key: str, value: str) -> str:
    value = value.replace("`", "'").replace("**", "*")  # which would be markup in a document
    if key in {"experiment", "model", "ensemble"}:
        return ("ensemble of " if key == "ensemble" else "") + value.removeprefix("article/")
    return f"{key.rpartition('.')[2]}={value}"
