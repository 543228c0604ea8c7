"""`mami NAME …`: every command by one name. `python -m jobs.NAME …` is the same."""

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_type_hints

GROUPS = {
    "Begin": {
        "demo": "label a small network and look at it, on this machine alone",
    },
    "Make": {
        "label": "say in words what the neurons of vision networks look for",
        "caption": "caption a folder of exemplars, as MILAN's scripts leave them",
        "train": "train a captioner on described neurons",
        "annotate": "let photographs with annotations describe neurons, to train on",
        "reproduce": "make the captioner that comes with the project again",
        "import-milan": "make a captioner of a checkpoint that MILAN saved",
        "fit-scorer": "make the image–text scorer that trust rests on",
    },
    "Look": {
        "report": "a site to look at: gallery, search, a page for each neuron",
        "show": "one picture of one neuron",
        "similar": "the neurons most like one",
        "compare": "what differs between two runs",
        "evaluate": "how well captions agree with people, and with what drives the neurons",
        "export": "labels for other programs: CSV, JSON lines, MILAN, Hugging Face, Neuronpedia",
    },
    "Plan and follow": {
        "subjects": "what of a network can be labelled",
        "simulate": "plan a large run, without machines",
        "status": "how far a run is, and what is missing",
    },
}
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that is named first; the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0].replace("_", "-") if words else "--help"
    if name in ("-h", "--help", "help"):
        print(overview())
        return 0
    if name == "--version":
        from importlib.metadata import version

        print(version("mami"))
        return 0
    if name == "completion":
        return completion(words[1:])
    if name not in there():
        like = "".join(f"Did you mean {each}? " for each in difflib.get_close_matches(name, there(), 1))
        print(f"Error: there is no command {name!r}. {like}There are {', '.join(there())}.", file=sys.stderr)
        return 2
    from jobs.engine import runtime

    # As `python -m` has it: a factory's module may lie in the working directory.
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.insert(0, str(Path.cwd()))
    command = importlib.import_module(_module(name))
    plan = getattr(command, "plan", None)
    return runtime.main(config_of(name), command.run, words[1:], plan=plan, command=f"mami {name}")


def there() -> list[str]:
    """The commands of this installation."""
    return [name for name in COMMANDS if importlib.util.find_spec(_module(name))]


def _module(name: str) -> str:
    return f"jobs.{name.replace('-', '_')}"


def config_of(name: str) -> type:
    """The class whose fields are the command's options: what its `run` takes."""
    return next(iter(get_type_hints(importlib.import_module(_module(name)).run).values()))


def overview() -> str:
    """The commands in groups."""
    lines = ["usage: mami COMMAND [options]", "", "Say in words what every neuron of a vision network looks for."]
    for group, commands in GROUPS.items():
        lines += ["", group, *(f"  {name:<14}{text}" for name, text in commands.items() if name in there())]
    return "\n".join(
        [
            *lines,
            "",
            "mami COMMAND --help explains one; `mami completion bash` (or zsh, tcsh) completes them in a shell.",
        ]
    )


def completion(words: Sequence[str]) -> int:
    """Prints what a shell needs to complete commands and options: `source <(mami completion bash)`."""
    import tyro

    shell = words[0] if words else "bash"
    if shell not in ("bash", "zsh", "tcsh"):
        print(f"Error: no completion for {shell!r}. Expected bash, zsh or tcsh.", file=sys.stderr)
        return 2
    commands: dict[str, Callable[..., object]] = {name: config_of(name) for name in there()}
    tyro.extras.subcommand_cli_from_dict(commands, prog="mami", args=["--tyro-print-completion", shell])
    return 0


if __name__ == "__main__":
    sys.exit(main())
