"""The notebook of the examples runs from its first cell to its last, over a run of its own."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from jobs.storage import Storage
from tests.jobs.tiny_label import labels_of

pytestmark = pytest.mark.xdist_group("report")


NOTEBOOK = Path(__file__).parents[3] / "examples" / "explore.ipynb"


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """What a notebook does with a cell: runs it; the value of its last line, if it is one."""
    *before, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        exec(compile(source, "cell", "exec"), names)
        return None
    exec(compile(ast.Module(before, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")
def test_every_cell_runs(finished: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    captions = labels_of(finished)["caption"].drop_null().to_pylist()
    word = captions[0].split()[0]
    monkeypatch.setenv("MAMI_RUN", finished.url)
    monkeypatch.setenv("MAMI_WORD", word)
    names: dict[str, Any] = {}
    shown = [
        run_cell("".join(cell["source"]), names)
        for cell in json.loads(NOTEBOOK.read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    head, _, layers, picture, mentioned, doubted = shown
    assert len(head) == 5
    assert layers["neurons"].sum() == 39
    assert picture.size[0] > 1000
    assert len(mentioned) == sum(word in caption.split() for caption in captions)
    assert len(doubted) == 10
