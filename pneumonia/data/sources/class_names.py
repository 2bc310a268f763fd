"""Tell which class a folder, a file name or a label of a table means: of the releases, and of a task of the user's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from pneumonia.data.sources.file_names import ParsedName, read_name
from pneumonia.tasks import BACTERIA, NORMAL, TASKS, UNKNOWN_KIND, VIRUS, Task, folded

FOLDERS: Final = {name: name for name in (NORMAL, UNKNOWN_KIND, BACTERIA, VIRUS)}


@dataclass(frozen=True)
class ClassNames:
    """The names of classes.

    Attributes:
        own: The class of each folded name that a task of the user's own adds; it goes before the names of the releases.
    """

    own: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, task: Task) -> "ClassNames":
        """Return the names that are known with a task; all built-in tasks know the same."""
        return cls() if task.name in TASKS else cls(task.words)

    def in_folder(self, name: str) -> str:
        """Return the class that a folder name means, or ``""``; ``PNEUMONIA`` covers bacteria and viruses."""
        return self.own.get(folded(name)) or FOLDERS.get(name.upper(), "")

    def in_file(self, name: str, known: str = "") -> ParsedName | None:
        """Parse a file name without suffix; return ``None`` if it follows no known naming scheme.

        Args:
            name: Of a file.
            known: Class that a folder or table gives. With classes of the user's own, a name that disagrees follows no scheme.
        """
        parsed = read_name(name)
        if parsed is None or not self.own:
            return parsed
        parsed = replace(parsed, label=self.own.get(folded(parsed.label), parsed.label))
        return parsed if self.agrees(parsed.label, known) else None

    def agrees(self, label: str, folder_class: str) -> bool:
        """Return whether an image with this label may be in a folder of this class; ``""`` accepts every label."""
        kinds = {self.own.get(folded(kind), kind) for kind in (BACTERIA, VIRUS)}
        return folder_class in {label, ""} or (folder_class == UNKNOWN_KIND and label in kinds)
