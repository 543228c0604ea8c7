"""`import mami_core` names what most people need, and costs nothing until it is used."""

import subprocess
import sys

import pytest

import mami_core


@pytest.mark.parametrize("name", mami_core.__all__)
def test_every_public_name_can_be_used(name: str) -> None:
    assert getattr(mami_core, name).__doc__
    assert name in dir(mami_core)


def test_the_lists_of_public_names_agree() -> None:
    assert sorted(mami_core._WHERE) == mami_core.__all__
    missing = [name for name in mami_core.__all__ if name not in (mami_core.__doc__ or "")]
    assert not missing


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lable'"):
        _ = mami_core.lable  # type: ignore[attr-defined]


def test_a_reader_of_tables_loads_no_torch() -> None:
    code = "import sys, mami_core, mami_core.contracts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
