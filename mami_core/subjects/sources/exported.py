"""A network as a program: what `torch.export.save` wrote, with its modules' names."""

import logging
from pathlib import Path

import torch

from mami_core.errors import SubjectError
from mami_core.subjects.sources.wanted import Wanted, no_preprocessing_by_name
from mami_core.subjects.subject import Subject, subject_of

logger = logging.getLogger(__name__)


def load_exported(path: str, wanted: Wanted) -> Subject:
    """The program in a .pt2 file. Opening it may run its makers' code, as a factory does: know where it is from.

    Raises:
        SubjectError: no such file, no such program, or one for batches of one size.
    """
    no_preprocessing_by_name(f"export:{path}", wanted)
    if wanted.weights is not None:
        raise SubjectError(f"'export:{path}' holds its weights: leave out weights='{wanted.weights}'.")
    if not Path(path).is_file():
        raise SubjectError(f"No program at '{path}'. Expected a .pt2 file of torch.export.save.")
    try:
        program = torch.export.load(path)
    except Exception as error:  # whatever is wrong with the file
        raise SubjectError(
            f"'{path}' is no program of torch.export.save ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]})."
        ) from error
    shape = _input_shape(program)
    size = wanted.input_size or (shape[1] if shape[1] == shape[2] else (shape[1], shape[2]))
    return subject_of(torch.export.unflatten(program), name=f"export:{path}", input_size=size)


def _input_shape(program: torch.export.ExportedProgram) -> tuple[int, int, int]:
    names = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(nodes) != 1 or len(nodes[0].meta["val"].shape) != 4:
        raise SubjectError("The program takes something else than one batch of images [B, 3, H, W].")
    _, channels, height, width = nodes[0].meta["val"].shape
    height, width = (side if isinstance(side, int) else 224 for side in (height, width))
    return channels, height, width
