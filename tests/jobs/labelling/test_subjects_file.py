"""Several subjects from a YAML file: what a file says is what is loaded, and what it cannot mean is refused by name."""

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jobs.label import LabelJob
from jobs.labelling.specs import SubjectSpec
from jobs.labelling.subjects_file import read_subjects
from mami_core.errors import ConfigError, MissingObjectError

FILE = """
- efficientnet_lite0
- name: torchvision:squeezenet1_1
  weights: random:3
  layers: [features.3, 'features.1?']
  input_size: 64
  crop: 1
  mean: [1, 2, 3.5]
  std: [100, 110, 120]
- {name: 'torchvision:resnet18', layers: layer1, crop: null}
"""

SPECS = (
    SubjectSpec(name="efficientnet_lite0"),
    SubjectSpec(
        name="torchvision:squeezenet1_1",
        weights="random:3",
        layers=("features.3", "features.1?"),
        input_size=64,
        crop=1.0,
        mean=(1.0, 2.0, 3.5),
        std=(100.0, 110.0, 120.0),
    ),
    SubjectSpec(name="torchvision:resnet18", layers=("layer1",)),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "subjects.yaml"
    path.write_text(FILE)
    return path


def job(file: Path, **options: object) -> LabelJob:
    return LabelJob(subjects_file=str(file), images="i", captioner="c", **options)  # type: ignore[arg-type]


def test_subjects_are_read_as_written(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_subjects(str(file)) == SPECS
    monkeypatch.chdir(file.parent)
    assert read_subjects(file.name) == SPECS, "also by a path from here"


def test_subjects_are_read_from_a_bucket(bucket: str, file: Path) -> None:
    from jobs.storage import storage_for

    storage_for(bucket).write("lists/subjects.yaml", file.read_bytes())
    assert read_subjects(f"{bucket}/lists/subjects.yaml") == SPECS


def test_a_job_labels_the_subjects_of_its_file(file: Path) -> None:
    specs = job(file, layers=("layer2",)).subject_specs()
    assert [spec.name for spec in specs] == [spec.name for spec in SPECS]
    assert [spec.layers for spec in specs] == [("layer2",), ("features.3", "features.1?"), ("layer1",)]


def test_a_subject_of_a_file_is_loaded_as_it_says() -> None:
    subject = SPECS[1].load()
    assert (subject.input_size, subject.crop, subject.mean, subject.std) == (64, 1.0, (1, 2, 3.5), (100, 110, 120))


@pytest.mark.parametrize("option", [{"subject": ("x",)}, {"weights": "w"}, {"input_size": 64}, {"crop": 1.0}])
def test_a_file_and_options_for_one_subject_exclude_each_other(file: Path, option: dict) -> None:
    with pytest.raises(ConfigError, match="--subjects-file says it all"):
        job(file, **option).subject_specs()


def test_a_job_without_a_subject_is_refused() -> None:
    with pytest.raises(ConfigError, match="Which network"):
        LabelJob(images="i", captioner="c").subject_specs()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a list of subjects, got nothing"),
        ("[]", "a list of subjects, got"),
        ("name: resnet18", "a list of subjects, got {'name'"),
        ("- [", "no YAML"),
        ("- 3", "subject 1: expected a name, or a mapping with a name, got 3"),
        ("- a\n- layers: [b]", "subject 2: expected a name"),
        ("- {name: a, layer: b}", "got also layer"),
        ("- {name: ''}", "name must be a text"),
        ("- {name: a, layers: [1]}", "layers must be a list of texts"),
        ("- {name: a, input_size: 3.5}", "input_size must be a whole number, or height and width, not 3.5"),
        ("- {name: a, crop: yes}", "crop must be a number, not True"),
        ("- {name: a, mean: [1, 2]}", "mean must be three numbers"),
        ("- {name: a, std: 3}", "std must be three numbers"),
        ("- !!python/object/apply:os.getcwd []", "no YAML"),
        ("- a\n- a", "different subjects, got a, a"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "subjects.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        job(file).subject_specs()
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingObjectError, match=r"nowhere\.yaml"):
        read_subjects(str(tmp_path / "nowhere.yaml"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "crop", "mean"]), inner),
    max_leaves=8,
)


@given(VALUES)
def test_any_yaml_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    file = tmp_path_factory.mktemp("any") / "subjects.yaml"
    file.write_text(yaml.safe_dump(value))
    with contextlib.suppress(ConfigError):
        assert all(isinstance(spec.name, str) and spec.name for spec in read_subjects(str(file)))
