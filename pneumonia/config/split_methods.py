"""The ways to split a data set, and the properties that other code asks about."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class SplitMethod:
    """A method of ``split.method``.

    Attributes:
        name: As in the config.
        folded: It assigns folds, and ``split.fold`` selects the one that validates.
        rotates: The validation fold changes while one model trains, so every fold is trained on in the end.
        leaky: It may put one patient into several subsets; its config file sets ``split.leaky``.
    """

    name: str
    folded: bool = False
    rotates: bool = False
    leaky: bool = False


SPLIT_METHODS: Final = {
    method.name: method
    for method in (
        SplitMethod("grouped"),
        SplitMethod("official"),
        SplitMethod("random", leaky=True),
        SplitMethod("kfold", folded=True),
        SplitMethod("rotating", folded=True, rotates=True, leaky=True),
        SplitMethod("given"),
    )
}
