"""What every command understands: a file of options, a plan, help in groups; and the one entry point."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from jobs import __main__ as mami
from jobs.engine import options, runtime
from mami_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job with every kind of option."""

    GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {"How": ("size", "rate")}
    ADDRESSES: ClassVar[Sequence[str]] = ("source",)
    ADDRESSES_OR_NAMES: ClassVar[Sequence[str]] = ("weights",)

    place: tyro.conf.Positional[str]
    """Where it goes."""
    subject: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Given several times."""
    layers: tuple[str, ...] = ()
    """Several words behind it."""
    size: int = 3
    """How large
    it is."""
    rate: float | None = None
    fast: bool = False
    checks: bool = True
    way: Literal["by-land", "by-sea"] | None = None
    as_: Annotated[str | None, tyro.conf.arg(name="as")] = None
    source: str | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        if self.size > 100:
            raise ConfigError(f"size: expected at most 100, got {self.size}.")


def parsed(words: Sequence[str]) -> Job:
    found: list[Job] = []
    assert runtime.main(Job, lambda job: found.append(job), words) == 0
    return found[0]


texts = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=8)


@given(
    place=texts,
    subject=st.lists(texts, min_size=1, max_size=3),
    layers=st.lists(texts, min_size=1, max_size=3),
    size=st.integers(-9, 9),
    rate=st.none() | st.floats(-9, 9),
    fast=st.booleans(),
)
def test_a_file_holds_what_the_options_hold(
    place: str,
    subject: list[str],
    layers: list[str],
    size: int,
    rate: float | None,
    fast: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    import yaml

    file = tmp_path_factory.mktemp("options") / "job.yaml"
    settings = {"place": place, "subject": subject, "layers": layers, "size": size, "rate": rate, "fast": fast}
    file.write_text(yaml.safe_dump(settings, allow_unicode=True))
    expected = Job(place=place, subject=tuple(subject), layers=tuple(layers), size=size, rate=rate, fast=fast)
    assert parsed([f"--config={file}"]) == expected


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("place: there\nsize: 5\nsubject: [a, b]\nfast: true\n")
    assert parsed(["here", "--size", "7", "--subject", "c", "--no-fast", "--config", str(file)]) == Job(
        place="here", size=7, subject=("c",)
    )
    assert parsed(["--config", str(file), "--size=8"]).size == 8
    file.write_text("place: there\nas: other\nchecks: false\n")
    assert parsed(["--config", str(file)]) == Job(place="there", as_="other", checks=False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour: red", "job.yaml: there is no option colour"),
        ("plase: here", "no option plase. Did you mean place?"),
        ("size: [1, 2]", "job.yaml: size wants a whole number, got"),
        ("rate: many", "job.yaml: rate wants a number, got 'many'"),
        ("fast: 3", "job.yaml: fast wants true or false, got 3"),
        ("layers: {a: b}", "job.yaml: layers wants a list, each a text"),
        ("- a", "mapping"),
        ("a: [", "YAML"),
        (None, "YAML"),
    ],
)
def test_a_file_that_says_something_else_is_refused(text: str | None, says: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        options.read(Job, ["--config", str(file)])


def test_a_dry_run_shows_the_plan_and_starts_nothing(capsys: pytest.CaptureFixture) -> None:
    def run(job: Job) -> None:
        raise AssertionError("must not start")

    assert runtime.main(Job, run, ["here", "--dry-run"], plan=lambda job: f"to {job.place}") == 0
    assert capsys.readouterr().out == "to here\n"
    assert runtime.main(Job, run, ["here", "--dry-run"], command="mami job") == 0
    assert capsys.readouterr().out == "mami job only looks and tells: there is nothing to plan.\n"


def test_help_has_every_option_in_its_group(capsys: pytest.CaptureFixture) -> None:
    assert runtime.main(Job, lambda job: None, ["--help"], command="mami job") == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: mami job PLACE [options]\n\nA job with every kind of option.")
    assert said.index("How\n") < said.index("--size N") < said.index("More\n") < said.index("--layers TEXT …")
    assert "How large it is. (3)" in said
    assert all(f"\n  {each}" in said for each in ("--subject TEXT ", "--no-checks", "--as TEXT", "--source PATH"))


@pytest.mark.parametrize("name", mami.there())
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture) -> None:
    assert mami.main([name, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"usage: mami {name}" in said
    assert f"Example\n  mami {name}" in said
    assert max(map(len, said.splitlines())) <= 120
    config, groups = mami.config_of(name), getattr(mami.config_of(name), "GROUPS", {})
    fields = [field.name for field in dataclasses.fields(config)]
    docs = options.field_docs(config)
    assert [field for field in fields if not docs.get(field)] == [], "every option is explained"
    assert len(fields) <= 12 or sorted(each for group in groups.values() for each in group) == sorted(fields)
    options_said = set(re.findall(r"^  (--[a-z-]+)", said, re.MULTILINE)) - {"--config", "--dry-run", "--debug"}
    with pytest.raises(SystemExit):
        tyro.cli(options.fields_alone(config), args=["--help"])
    understood = capsys.readouterr().out
    assert [each for each in options_said if each not in understood] == [], "what help says can be given"


def test_mami_lists_its_commands_and_knows_no_others(capsys: pytest.CaptureFixture) -> None:
    assert mami.main([]) == 0
    assert all(f"  {name} " in capsys.readouterr().out for name in ("label",))
    assert mami.main(["lable"]) == runtime.BAD_INPUT
    assert "Did you mean label? There are demo, label, " in capsys.readouterr().err


def test_a_shell_completes_commands_and_options(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        mami.main(["completion", "bash"])
    script = capsys.readouterr().out
    assert "--beam-size" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, timeout=100, check=False).returncode == 0


def test_addresses_in_a_file_count_from_where_it_lies(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("place: here\nsource: in/photos\nweights: random:0\n")
    found = parsed(["--config", str(file)])
    assert (found.place, found.source, found.weights) == ("here", f"{tmp_path}/in/photos", "random:0")
    file.write_text("source: s3://bucket/photos\nweights: w.pth\n")
    found = parsed(["here", "--config", str(file)])
    assert (found.source, found.weights) == ("s3://bucket/photos", f"{tmp_path}/w.pth")


def test_what_a_job_refuses_is_one_line(capsys: pytest.CaptureFixture) -> None:
    assert runtime.main(Job, lambda job: None, ["here", "--size", "101"]) == runtime.BAD_INPUT
    assert capsys.readouterr().err == "Error: size: expected at most 100, got 101.\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["here", "--sise", "3"], "Error: there is no option --sise. Did you mean --size?"),
        (["here", "--size", "many"], "Error: --size wants a whole number, got 'many'."),
        (["here", "--rate=fast"], "Error: --rate wants a number, got 'fast'."),
        (["here", "--way", "up"], "Error: --way wants one of by-land, by-sea, got 'up'."),
        (["--size", "3"], "place (required)"),
        (["here", "there"], "there"),
    ],
)
def test_words_that_are_not_understood_are_one_line(words: list[str], says: str, capsys: pytest.CaptureFixture) -> None:
    assert runtime.main(Job, lambda job: None, words) == runtime.BAD_INPUT
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("Error: ")
    assert said.err.count("\n") == 1
    assert says in said.err
    assert not re.search("[─-╿]|---", said.err)


def test_help_into_a_closed_pipe_says_nothing_more() -> None:
    command = f"{sys.executable} -m jobs status --help | head -1"
    said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=100, check=True)
    assert said.stderr == ""


def test_a_factory_in_the_working_directory_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "lies_here.py").write_text(
        "from torch import manual_seed, nn\n\n"
        "def make():\n    manual_seed(0)\n    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    assert mami.main(["subjects", "python:lies_here:make", "--input-size", "32"]) == 0
    assert "8" in capsys.readouterr().out
