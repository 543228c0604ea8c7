"""Every benchmark, each in a process of its own: python -m tests.benchmarks [STAGE …] [--threads N]."""

import os
import subprocess
import sys

from jobs.engine.workers import KEEPS_MEMORY
from tests.benchmarks.measure import HEADER, arguments

STAGES = ("search", "latents", "features", "decoding", "training", "images", "job", "growth")


def main() -> int:
    """Print the table; the number of stages that failed."""
    parser = arguments()
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], default=[])
    chosen = parser.parse_args()
    options = [f"--{name}={getattr(chosen, name)}" for name in ("threads", "rounds", "share")]
    print(HEADER, flush=True)
    failed = 0
    for stage in chosen.stages or STAGES:
        command = [sys.executable, "-m", f"tests.benchmarks.{stage}", *options]
        environment = os.environ | {"OMP_NUM_THREADS": str(chosen.threads)}
        if stage == "job":  # the pipeline is to keep its memory as the job's workers do
            environment |= KEEPS_MEMORY
        failed += subprocess.run(command, env=environment).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
