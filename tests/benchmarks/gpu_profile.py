"""What a GPU's time is spent on, stage by stage: python -m tests.benchmarks.gpu_profile. Launches, copies, kernels."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from mami_core import pipeline
from mami_core.captions.captioner import CaptionerConfig
from mami_core.captions.decode import DecodeConfig, caption
from mami_core.images import LocalFiles
from tests.benchmarks.decoding import K, networks
from tests.benchmarks.gpu_setting import encoder_in, searched, setting_of, subject_in


def main() -> None:
    """Print the most expensive kernels of each stage."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    with tempfile.TemporaryDirectory() as folder:
        setting = setting_of(device, Path(folder), small=chosen.small, num_images=1024)
        subject, encoder = subject_in(setting, "bfloat16"), encoder_in(setting, "bfloat16")
        exemplars = searched(setting, subject, setting.table)
        show("search", lambda: searched(setting, subject, setting.table))
        show(
            "features",
            lambda: pipeline.encode_images(
                subject, encoder, exemplars, setting.table, LocalFiles(), batch_size=setting.batch_size,
                decoder=setting.decoder,
            ),
        )  # fmt: skip
    captioner, language_model = networks(CaptionerConfig(num_features=1024))
    captioner, language_model = captioner.to(device), language_model.to(device)
    count = setting.num_neurons if chosen.small else 512
    vectors, present = torch.randn(count, K, 1024).half(), torch.ones(count, K, dtype=torch.bool)
    config = DecodeConfig(beam_size=setting.beam_size, precision="tf32")
    show("captions", lambda: caption(captioner, language_model, vectors, present, config))


def show(stage: str, work: Callable[[], object]) -> None:
    """Profile the second run."""
    work()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        work()
    averages = seen.key_averages()
    launches = sum(each.count for each in averages if "LaunchKernel" in each.key)
    waits = sum(each.count for each in averages if "Synchronize" in each.key)
    copies = sum(each.count for each in averages if each.key.startswith("cudaMemcpy"))
    print(f"--- {stage}: {launches} launches, {waits} waits, {copies} copies")
    print(averages.table(sort_by="self_cuda_time_total", row_limit=28, max_name_column_width=70))


if __name__ == "__main__":
    main()
