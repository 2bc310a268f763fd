"""Tasks: the built-in ones equal their files, others are validated, labels are matched in any spelling."""

import pickle
from collections import Counter

import pytest
import yaml

from pneumonia.config.convert import task_node
from pneumonia.config.keys import conf_dir
from pneumonia.config.task_files import load_task
from pneumonia.errors import ConfigError, LabelError
from pneumonia.tasks import (
    ANY_POSITIVE,
    BACTERIA,
    NORMAL,
    PNEUMONIA,
    SUBTYPE,
    TASKS,
    UNKNOWN_KIND,
    VIRUS,
    Task,
    in_class_order,
    positive_of,
)

COVID = Task.of("covid", [NORMAL, "COVID-19", "Viral"], synonyms={"COVID-19": ["corona"], "Viral": [VIRUS]})


@pytest.mark.parametrize("path", sorted((conf_dir() / "task").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_of_conf_holds_the_built_in_task(path):
    assert task_node(yaml.safe_load(path.read_text())).build() == TASKS[path.stem] == load_task(path.stem) == load_task(str(path))


def test_every_built_in_task_has_a_file():
    assert {path.stem for path in (conf_dir() / "task").glob("*.yaml")} == set(TASKS)


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
    with pytest.raises(LabelError, match=r"the label 'PNEUMONIA'; it knows NORMAL, COVID-19, Viral, corona, VIRUS\. Add it"):
        COVID.index(UNKNOWN_KIND)


def test_labels_match_in_any_case_and_by_synonym():
    labels = ["normal", "covid_19", "Covid 19", "CORONA", "virus", "VIRAL"]
    assert COVID.indices(labels) == [0, 1, 1, 1, 2, 2]


def test_labels_are_listed_in_the_order_of_the_task_and_strange_ones_last():
    labels = ["zebra", BACTERIA, UNKNOWN_KIND, VIRUS, NORMAL, "ant", VIRUS]
    assert in_class_order(labels) == [NORMAL, VIRUS, BACTERIA, UNKNOWN_KIND, "ant", "zebra"]
    assert in_class_order(labels)[:3] == list(SUBTYPE.classes)


def test_questions_are_all_positive_classes_then_each():
    assert SUBTYPE.questions == (UNKNOWN_KIND, VIRUS, BACTERIA)
    assert PNEUMONIA.questions == (UNKNOWN_KIND,)
    assert COVID.questions == (ANY_POSITIVE, "COVID-19", "Viral")
    assert Task.of("tb", ["TB", "OTHER", NORMAL], ["TB"]).questions == ("TB",)
    for task in (SUBTYPE, PNEUMONIA, COVID):
        assert tuple(positive_of(task.questions)) == task.positive


def test_plain_values_and_pickles_give_the_task_back():
    for task in (SUBTYPE, PNEUMONIA, COVID):
        assert Task.from_plain(task.to_plain()) == pickle.loads(pickle.dumps(task)) == task
    assert SUBTYPE.to_plain() == "subtype"


def test_the_order_of_positive_does_not_matter():
    classes = ["A", "B", "C"]
    assert Task.of("x", classes, ["C", "B"]) == Task.of("x", classes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"classes": [NORMAL]}, r"task.classes=\[NORMAL\] has 1 class, and a classifier separates 2 to 20"),
        ({"classes": []}, "has 0 classes"),
        ({"classes": [f"c{number}" for number in range(21)]}, "has 21 classes"),
        ({"classes": ["TB", "TB"]}, "has one class twice, TB and TB"),
        ({"classes": ["COVID-19", "covid_19"]}, "has one class twice, COVID-19 and covid_19"),
        ({"classes": [NORMAL, ""]}, "task.classes= can't be a name"),
        ({"classes": [NORMAL, "a/b"]}, "task.classes=a/b can't be a name"),
        ({"classes": [NORMAL, "a,b"]}, "task.classes=a,b can't be a name"),
        ({"classes": [NORMAL, "macro"]}, "task.classes=macro can't be a class"),
        ({"classes": [NORMAL, "None"]}, "task.classes=None can't be a class"),
        ({"classes": [NORMAL, "any_positive"]}, "task.classes=any_positive can't be a class"),
        ({"name": "../x"}, r"task.name=\.\./x can't be a name"),
        ({"name": "subtype"}, "task.name=subtype is a built-in task, which has other values"),
        ({"positive": []}, r"task.positive=\[\] must hold one class or more"),
        ({"positive": [NORMAL, "TB"]}, "and leave one out"),
        ({"positive": ["TB", "TB"]}, "each once"),
        ({"positive": ["TBC"]}, r"task.positive=\[TBC\]: TBC is no class of the task. Did you mean 'TB'\?"),
        ({"synonyms": {"TBC": ["x"]}}, "task.synonyms.TBC names no class of the task"),
        ({"synonyms": {"TB": ["normal"]}}, "task.synonyms.TB=normal names the class NORMAL too"),
        ({"synonyms": {"TB": ["x"], NORMAL: ["X "]}}, "task.synonyms.NORMAL=X  names the class TB too"),
        ({"synonyms": {"TB": [" "]}}, "can't name a class"),
        ({"synonyms": {"TB": "koch"}}, "task.synonyms={TB: koch} has the wrong type: .* each value a list"),
        ({"classes": "TB"}, "task.classes=TB has the wrong type: it must be a list"),
        ({"classes": [False, True]}, "task.classes=.*has the wrong type: .*quotes"),
        ({"positives": ["TB"]}, "task.positives is not a config key"),
    ],
)
def test_an_impossible_task_is_refused_with_its_value(values, message, tmp_path):
    given = {"name": "tb", "classes": [NORMAL, "TB"], **values}
    with pytest.raises(ConfigError, match=message):
        task_node(given)
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump(given))
    with pytest.raises(ConfigError, match="is not the file of a task"):
        load_task(str(path))


def test_a_missing_or_damaged_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"subtyp is neither a built-in task .* Did you mean 'subtype'\?"):
        load_task("subtyp")
    (tmp_path / "bad.yaml").write_text("classes: [a, b")
    with pytest.raises(ConfigError, match="neither a built-in task"):
        load_task(str(tmp_path / "bad.yaml"))
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"task\.name is missing"):
        load_task(str(tmp_path / "empty.yaml"))


@pytest.mark.parametrize(
    "value", ["none", 3, None, ["subtype"], {"name": "x"}, {"name": "x", "classes": 3}, {"classes": ["a", "b"]}]
)
def test_plain_values_of_no_task_are_refused(value):
    with pytest.raises(ConfigError, match="task"):
        Task.from_plain(value)
