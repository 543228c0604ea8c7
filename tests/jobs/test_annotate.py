"""jobs.annotate: annotated photographs in, a folder that jobs.train reads out; the same bytes whatever happens."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load
from skimage import data as pictures

from jobs import annotate
from jobs.annotate import AnnotateJob
from jobs.annotating.photographs import ReadPhotographs, table_of
from jobs.annotating.reading import FindExemplars, draws_of, peaks_of
from jobs.annotating.spec import all_photographs, sources_of
from jobs.annotating.stages import SAID, look_at, stages
from jobs.engine.items import Item
from jobs.engine.plan import MANIFEST, begin, read_manifest, write_manifest
from jobs.labelling.specs import SubjectSpec
from jobs.storage import Storage, storage_for
from mami_core.errors import ConfigError, DescriptionsError, MamiError, RunMismatchError
from mami_core.learning.annotated_folder import open_annotated
from mami_core.learning.descriptions import PHRASES, Neuron, read_phrases
from mami_core.learning.dissected import Photograph, read_photographs
from tests.annotating import BLUE, DEAD, PLANTED, RED, write_photographs, write_wordnet


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_wordnet(folder / "wordnet")
    write_photographs(folder / "drawn")
    return folder


def small(sources: Path, output: Path) -> AnnotateJob:
    return AnnotateJob(
        photographs=(str(sources / "drawn"),),
        wordnet=str(sources / "wordnet"),
        output=str(output),
        subject=(PLANTED,),
        locator=None,
        k=8,
        gain=4.0,
        quantile=0.9,
        concepts=2,
        concepts_per_word=1.0,
        photographs_per_item=16,
    )


def annotated(job: AnnotateJob) -> Storage:
    """The job's work, in this process and without Ray."""
    storage = storage_for(job.output)
    ready = annotate.prepare(job)
    annotate.work(storage, ready.spec, job, ready.looked, pool=None)
    return storage


def files_of(storage: Storage) -> dict[str, bytes]:
    return {info.path: storage.read(info.path) for info in storage.find("")}


@pytest.fixture(scope="module")
def whole(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A run that nothing happened to."""
    return annotated(small(sources, tmp_path_factory.mktemp("whole")))


def torn(whole: Storage, output: Path, *lost: str) -> Storage:
    """A copy of the run without the files whose names begin so."""
    storage = storage_for(str(output))
    for path, data in files_of(whole).items():
        if not path.startswith(lost):
            storage.write(path, data)
    return storage


def test_what_is_made_is_what_training_reads(whole: Storage) -> None:
    found = open_annotated(whole.url)
    said = dict(zip(found.neurons, found.descriptions, strict=True))
    layer = "python~3Atests.annotating~3Aplanted.colours"
    assert all("red" in text.split() for text in said[Neuron(layer, RED)])
    assert "blue" in said[Neuron(layer, BLUE)][-1].split()  # a short one may say what shape they have, and no more
    assert Neuron(layer, DEAD) not in said
    assert {neuron.layer for neuron in said} >= {layer, f"{layer}.1", "concepts.000", "concepts.001"}
    assert found.pictures.pixels(0).shape == (3, 256, 256)
    red = list(said).index(Neuron(layer, RED))
    pixels, region = found.pictures.pixels(int(found.images[red, 0])), found.pictures.region(red, 0)
    inside = pixels.reshape(3, 64, 4, 64, 4).mean((2, 4))[:, region > 0].mean(1)
    assert inside[0] > inside[2] + 50


def test_exemplars_are_the_photographs_that_drive_each_unit_highest(sources: Path, whole: Storage) -> None:
    """As the stages after read them."""
    spec = annotate.prepare(small(sources, Path(whole.url))).spec
    peaks = peaks_of(spec, PLANTED, "colours", whole).astype(np.float32)
    exemplars = draws_of(PLANTED, "colours", whole)[0]
    for unit in (RED, BLUE):
        found = peaks[exemplars[unit], unit]
        assert found.tolist() == sorted(peaks[:, unit], reverse=True)[: len(found)]
        assert len(set(exemplars[unit].tolist())) == len(found)


def test_a_run_that_lost_parts_ends_with_the_same_bytes(sources: Path, whole: Storage, tmp_path: Path) -> None:
    storage = torn(whole, tmp_path, SAID, "_work/peaks", "photographs/")
    assert files_of(annotated(small(sources, tmp_path))) == files_of(whole)
    assert storage.exists("annotations.csv")


def test_what_exemplars_show_agrees_with_the_photographs(sources: Path, whole: Storage) -> None:
    """Of every neuron, under the region that its folder keeps."""
    table = table_of(annotate.prepare(small(sources, Path(whole.url))).spec, whole)
    numbers = {word.text: number for number, word in enumerate(table.words)}
    phrases = [tuple(phrase) for phrase in read_phrases(Path(whole.url) / PHRASES)]
    said = {"apples": ("apples", "noun"), "animals": ("animals", "noun"), "top": ("at the top of the picture", "place")}
    folders = [path.parent for path in Path(whole.url).glob("*/shown.npy")]
    assert len(folders) == 5
    for folder in folders:
        images, masks, shown = (np.load(folder / f"{name}.npy") for name in ("images", "masks", "shown"))
        present = images >= 0
        hits = table.hits(images[present], np.packbits(masks[present].reshape(present.sum(), -1), axis=1))
        expected = np.rint(255 * hits[:, [numbers[name] for name in said]].astype(np.float32))
        np.testing.assert_array_equal(shown[present][:, [phrases.index(phrase) for phrase in said.values()]], expected)
        assert not shown[~present].any()


def before_it_was_kept_what_exemplars_show(whole: Storage, output: Path) -> Storage:
    """A run that an earlier version of this project left."""
    storage = torn(whole, output, SAID, PHRASES)
    for info in storage.find():
        if info.path.endswith("shown.npy"):
            storage.delete(info.path)
    for info in whole.find(SAID):
        storage.write(info.path.replace(SAID, "_work/said"), b"layer,unit,summary\n")
    return storage


def test_a_run_begun_before_goes_on_with_its_exemplars(
    sources: Path, whole: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage, job = before_it_was_kept_what_exemplars_show(whole, tmp_path), small(sources, tmp_path)
    with begin(storage, annotate.prepare(job).config) as plan:
        write_manifest(storage, plan, ["annotations.csv"])
    annotate.run(job)  # it is finished, and stays so
    assert "To add it, delete" in caplog.text
    assert not storage.exists(PHRASES)
    storage.delete(MANIFEST)
    kept = [info.path for info in storage.find("_work/exemplars")]
    times = [(tmp_path / path).stat().st_mtime_ns for path in kept]
    annotated(job)
    assert [(tmp_path / path).stat().st_mtime_ns for path in kept] == times
    together, expected = files_of(storage), files_of(whole)
    assert {path: together[path] for path in expected} == expected


@pytest.mark.cluster
@pytest.mark.xdist_group("ray too")
def test_many_workers_make_the_same_bytes(sources: Path, whole: Storage, tmp_path: Path, local_ray: None) -> None:
    """The first stage and the last ones; every stage has a pool of its own, which takes seconds to start."""
    storage = torn(whole, tmp_path, SAID, "photographs/part-00001")
    job = dataclasses.replace(small(sources, tmp_path), num_workers=2)
    annotate.run(job)
    together = files_of(storage)
    assert {path: together[path] for path in files_of(whole)} == files_of(whole)
    listed = {file.path for file in read_manifest(storage).files}
    assert {PHRASES, "concepts.000/shown.npy"} <= listed
    with pytest.raises(RunMismatchError, match="gain"):
        annotate.run(dataclasses.replace(job, gain=5.0))


def test_held_out_photographs_are_seen_by_no_neuron(sources: Path) -> None:
    every, some = (all_photographs([str(sources / "drawn")], share) for share in (0.0, 0.4))
    assert 0 < len(some) < len(every) == 40
    assert set(some) < set(every)
    with pytest.raises(DescriptionsError, match="held out"):
        all_photographs([str(sources / "drawn")], 0.999999)


def test_photographs_that_are_not_there_are_left_out_and_those_of_one_name_are_kept(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        folder = tmp_path / "pets" / name
        folder.mkdir(parents=True)
        (folder / "001.jpg").write_bytes(b"")
    found = all_photographs([str(tmp_path / "pets")], 0.0)
    assert [photograph.path.parent.name for photograph in found] == ["cat", "dog"]
    there = write_photographs(tmp_path / "partly", count=6)
    (there / "images" / "apple_004.png").unlink()
    assert len(all_photographs([str(there)], 0.0)) == 5
    for path in (there / "images").iterdir():
        path.unlink()
    with pytest.raises(DescriptionsError, match="none of the photographs that it names is there"):
        all_photographs([str(there)], 0.0)


def test_what_several_sources_say_of_a_photograph_counts_together(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "said.csv").write_text("image,caption\napple_004.png,An apple.\n")
    monkeypatch.chdir(sources)
    files = [str(sources / "drawn"), f"{tmp_path}/said.csv:{sources}/drawn/images"]
    alone, together = (all_photographs(each, 0.0) for each in (files[:1], files))
    assert [photograph.path for photograph in together] == [photograph.path for photograph in alone]
    (more,) = set(together) - set(alone)
    assert more.source == "drawn"
    assert more.annotations[-1].phrases == ("An apple.",)
    assert all_photographs(files, 0) == all_photographs(files[::-1], 0)
    relative = f"{tmp_path}/said.csv:drawn/images"
    job = dataclasses.replace(small(sources, tmp_path / "out"), photographs=(relative,), held_out=0.0)
    assert annotate.prepare(job).spec.sources == (f"{tmp_path}/said.csv:{sources}/drawn/images",)


def refusal(job: AnnotateJob, there: dict) -> str:
    """What is said where a run of this configuration stands already."""
    storage = storage_for(job.output)
    with begin(storage, there):
        pass
    with pytest.raises(RunMismatchError) as refused:
        annotate.run(job)
    return str(refused.value)


def test_a_run_that_chose_exemplars_wrongly_does_not_go_on(sources: Path, tmp_path: Path) -> None:
    job = small(sources, tmp_path)
    config = annotate.prepare(job).config
    before = {name: value for name, value in config.items() if name != "exemplars"}
    before["photographs"] = {"count": config["photographs"]["count"], "digest": "names and sizes"}
    said = refusal(job, before)
    assert "exemplars: another version of this project" in said
    assert "annotate again" in said
    assert "digest" not in said


@pytest.mark.parametrize("changed", ["regions.jsonl", "masks/004.png", "another source"])
def test_a_run_knows_what_is_said_of_its_photographs(tmp_path: Path, sources: Path, changed: str) -> None:
    drawn = write_photographs(tmp_path / "drawn", count=6)
    job = dataclasses.replace(small(sources, tmp_path / "out"), photographs=(str(drawn),), held_out=0.0)
    config = annotate.prepare(job).config
    moved = shutil.copytree(drawn, tmp_path / "elsewhere" / "drawn")
    assert annotate.prepare(dataclasses.replace(job, photographs=(str(moved),))).config == config
    if changed == "another source":
        (tmp_path / "said.csv").write_text("image,caption\napple_004.png,An apple.\n")
        job = dataclasses.replace(job, photographs=(*job.photographs, f"{tmp_path}/said.csv:{drawn}/images"))
    elif changed == "regions.jsonl":
        (drawn / changed).write_text((drawn / changed).read_text().replace("There is one dog.", "There is a dog."))
    else:
        Image.new("L", (80, 64), 7).save(drawn / changed)
    assert "photographs.digest: other photographs than there, or something else is said" in refusal(job, config)
    (drawn / "masks" / "004.png").unlink()
    with pytest.raises(DescriptionsError, match=r"004\.png: expected a mask for .*apple_004\.png"):
        annotate.prepare(job)


def test_the_plan_reads_photographs_once(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str | Path] = []

    def counted(source: str | Path) -> tuple[Photograph, ...]:
        read.append(source)
        return read_photographs(source)

    monkeypatch.setattr("jobs.annotating.spec.read_photographs", counted)
    job = small(sources, tmp_path / "out")
    said = annotate.plan(job)
    assert len(read) == 1
    assert all(stage in said for stage in ("photographs", "peaks", "exemplars", "regions", "neurons", "concepts"))


def test_a_folder_of_annotated_folders_stands_for_them_and_what_is_left_out_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photographs(tmp_path / "all" / "drawn", count=2)
    (tmp_path / "all" / "README.md").touch()
    for name in ("masks/classes.json", "by_class/cat/1.jpg", ".git/config"):
        (tmp_path / "all" / name).parent.mkdir(parents=True)
        (tmp_path / "all" / name).touch()
    monkeypatch.chdir(tmp_path)
    assert sources_of(["all"]) == (f"{tmp_path}/all/drawn", f"{tmp_path}/all/masks")
    assert "left out by_class." in caplog.text
    assert sources_of(["all/by_class", "nothing"]) == (f"{tmp_path}/all/by_class", f"{tmp_path}/nothing")
    (tmp_path / "all" / "classes.json").touch()
    assert sources_of(["all"]) == (f"{tmp_path}/all",)


def test_a_photograph_that_cannot_be_decoded_is_named(sources: Path, tmp_path: Path) -> None:
    broken = write_photographs(tmp_path / "broken", count=6)
    (broken / "images" / "apple_004.png").write_bytes(b"no picture")
    job = dataclasses.replace(small(sources, tmp_path / "out"), photographs=(str(broken),), held_out=0.0)
    with pytest.raises(MamiError, match="apple_004"):
        annotated(job)


def test_what_cannot_work_is_refused_before_any_work(sources: Path, tmp_path: Path) -> None:
    job = small(sources, tmp_path / "out")
    with pytest.raises(ConfigError, match="WordNet"):
        annotate.prepare(dataclasses.replace(job, wordnet=str(tmp_path)))
    with pytest.raises(DescriptionsError, match=r"regions\.jsonl"):
        annotate.prepare(dataclasses.replace(job, photographs=(str(tmp_path / "nothing"),)))
    with pytest.raises(ConfigError, match="expected some of faces, text; got 'hands'"):
        annotate.prepare(dataclasses.replace(job, detect=("hands",)))
    with pytest.raises(ConfigError, match="held_out"):
        dataclasses.replace(job, held_out=1.0)


@pytest.mark.parametrize("layers", [(), ("*",)])
def test_class_scores_are_found_wherever_they_stand_among_the_layers(layers: tuple[str, ...]) -> None:
    looked = look_at(SubjectSpec(name="python:tests.annotating:classifier", layers=layers))
    assert looked.scores == {"scores"}
    assert looked.layers["scores"] == 1000
    assert not look_at(SubjectSpec(name=PLANTED)).scores


def test_class_scores_are_drawn_twice_a_part_with_ever_more_noise(
    sources: Path, whole: Storage, tmp_path: Path
) -> None:
    spec = annotate.prepare(small(sources, tmp_path)).spec
    storage = torn(whole, tmp_path, "_work/exemplars")
    item = Item("exemplars", 0, 1, "key", {"subject": PLANTED, "layer": "colours", "is_classes": True})
    made = FindExemplars(spec).process(item, storage).objects
    assert isinstance(made, bytes)
    draws, sure = load(made)["exemplars"], draws_of(PLANTED, "colours", whole)
    assert len(draws) == 2 * len(sure) == 2 * spec.parts
    np.testing.assert_array_equal(draws[0], sure[0])
    as_sure = [len({*draws[draw, RED]} & {*sure[0, RED]}) for draw in (0, 1)]
    assert as_sure[0] > as_sure[1] > 0
    assert not {*draws[2, RED]} & {*draws[4, RED]} - {-1}  # of halves beside each other


def test_faces_in_photographs_are_words_of_their_maps(sources: Path, tmp_path: Path) -> None:
    folder = tmp_path / "people"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(6):
        file = f"images/{number}.png"
        Image.fromarray((pictures.coffee, pictures.astronaut)[number % 2]()).save(folder / file)
        lines.append(json.dumps({"image": file, "names": ["dog"]}))
    (folder / "regions.jsonl").write_text("\n".join(lines))
    job = dataclasses.replace(
        small(sources, tmp_path / "out"), photographs=(str(folder),), subject=(), detect=("faces",), held_out=0.0
    )
    spec, storage = annotate.prepare(job).spec, storage_for(job.output)
    made = ReadPhotographs(spec).process(stages(spec, 1, {})["photographs"][0], storage).objects
    assert isinstance(made, dict)
    for path, content in made.items():
        storage.write(path, content)
    table = table_of(spec, storage)
    faces = next(number for number, word in enumerate(table.words) if word.text == "faces")
    assert (table.areas[:, faces] > 0).tolist() == [False, True] * 3


@pytest.mark.slow
def test_real_photographs_give_true_words(shared_data: Path, tmp_path: Path) -> None:
    folders = ("coco_mini", "kangaroo", "leeds_butterfly")
    job = AnnotateJob(
        photographs=tuple(str(shared_data / "annotated" / name) for name in folders),
        wordnet=str(shared_data / "text" / "wordnet.zip"),
        output=str(tmp_path / "out"),
        subject=("efficientnet_lite0",),
        layers=("_blocks.15",),
        concepts=1,
        concepts_per_word=0.5,
    )
    annotated(job)
    found = open_annotated(job.output)
    words = np.array([any("butterflies" in text for text in said) for said in found.descriptions])
    real = np.array([neuron.layer.startswith("efficientnet") for neuron in found.neurons])
    assert words[real].any()
    assert words[~real].any()
