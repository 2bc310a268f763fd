from collections import Counter

import pytest

from pneumonia.errors import LabelError
from pneumonia.tasks import BACTERIA, NORMAL, PNEUMONIA, SUBTYPE, UNKNOWN_KIND, VIRUS, in_class_order


@pytest.mark.parametrize("task", [SUBTYPE, PNEUMONIA])
def test_many_labels_at_once_are_numbered_and_counted_as_one_by_one(task):
    labels = [BACTERIA, NORMAL, VIRUS, NORMAL, BACTERIA]
    assert task.indices(labels) == [task.index(label) for label in labels]
    assert task.counts(labels) == Counter(task.classes[task.index(label)] for label in labels)
    assert task.indices([]) == []


def test_a_label_without_a_class_is_named_among_many():
    for work in (SUBTYPE.indices, SUBTYPE.counts):
        with pytest.raises(LabelError, match="without saying whether of a virus or of bacteria"):
            work([NORMAL, UNKNOWN_KIND])
        with pytest.raises(LabelError, match="the label 'zebra'"):
            work([NORMAL, "zebra"])


def test_labels_are_listed_in_the_order_of_the_task_and_strange_ones_last():
    labels = ["zebra", BACTERIA, UNKNOWN_KIND, VIRUS, NORMAL, "ant", VIRUS]
    assert in_class_order(labels) == [NORMAL, VIRUS, BACTERIA, UNKNOWN_KIND, "ant", "zebra"]
    assert in_class_order(labels)[:3] == list(SUBTYPE.classes)
