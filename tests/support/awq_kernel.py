"""Stands in for vLLM's AWQ matrix product on processors that its build has none for.

vLLM's CPU build has that kernel (`cpu_gemm_wna16`) for AVX-512 only. On others this one does the
same sum in plain PyTorch, so that all else of vLLM's AWQ path runs. vLLM loads it as a plugin
(https://docs.vllm.ai/en/latest/design/plugin_system.html), in each of its processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

_SIGNATURE = (
    "cpu_gemm_wna16(Tensor input, Tensor q_weight, Tensor(a!) output, Tensor scales, "
    "Tensor? zeros, Tensor? bias, int pack_factor, str isa_hint) -> ()"
)
# A library's operators go with it.
_libraries: list[Any] = []


def install(folder: Path) -> dict[str, str]:
    """Environment for a vLLM server that loads this module as a plugin.

    Args:
        folder: For the plugin's metadata.
    """
    metadata = folder / "rank1_awq_kernel-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: rank1-awq-kernel\nVersion: 0\n"
    )
    (metadata / "entry_points.txt").write_text(
        f"[vllm.general_plugins]\nrank1_awq_kernel = {__name__}:register\n"
    )
    root = Path(__file__).parents[2]
    return {"PYTHONPATH": f"{folder}:{root}"}


def register() -> None:
    """Add the kernel where vLLM has none."""
    from vllm.platforms import current_platform

    current_platform.import_kernels()
    if not hasattr(torch.ops._C, "cpu_gemm_wna16"):
        make_library: Any = torch.library.Library
        library = make_library("_C", "FRAGMENT")
        library.define(_SIGNATURE)
        library.impl("cpu_gemm_wna16", _multiply, "CPU")
        _libraries.append(library)


def _multiply(
    inputs: torch.Tensor,
    q_weight: torch.Tensor,
    output: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    bias: torch.Tensor | None,
    pack_factor: int,
    isa_hint: str,
) -> None:
    """Inputs times weights of 4 bits, which lie in blocks of 16 outputs."""
    assert zeros is not None
    size, width = inputs.shape[1], scales.shape[1]
    blocks = _unpacked(q_weight.view(width // 16, size, 2))
    levels = blocks.permute(1, 0, 2).reshape(size, width)
    group = size // scales.shape[0]
    weight = levels - _unpacked(zeros.view(-1, width // 8)).repeat_interleave(group, 0)
    product = inputs.float() @ (weight * scales.float().repeat_interleave(group, 0))
    output.copy_(product if bias is None else product + bias.float())


def _unpacked(packed: torch.Tensor) -> torch.Tensor:
    """Eight values from each int32, side by side in the last dimension."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    return ((packed.unsqueeze(-1) >> shifts) & 15).flatten(-2)
