"""AWQ's way of storing linear layers: 4 bits a weight, eight weights in an int32.

The layout is AutoAWQ's "GEMM" version (https://github.com/casper-hansen/AutoAWQ). Weights are
rounded without AWQ's search for scales, which changes their quality and not their form.
"""

from __future__ import annotations

import torch

# The place in an int32 at which each of eight neighbouring weights is stored.
_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]
_LEVELS = 15

Tensors = dict[str, torch.Tensor]


def pack_linear_layers(weights: Tensors, *, group_size: int) -> tuple[Tensors, Tensors]:
    """All linear layers but the output layer, packed; and the weights that they then stand for.

    Args:
        weights: A checkpoint's tensors by name, in float16; linear layers end in "_proj.weight".
        group_size: Inputs that share a scale and a zero point.
    """
    packed, same = dict(weights), dict(weights)
    for name in [name for name in weights if name.endswith("_proj.weight")]:
        layer = name.removesuffix(".weight")
        levels, zeros, scales = _quantize(weights[name].t().float(), group_size)
        del packed[name]
        packed[f"{layer}.qweight"] = _pack(levels)
        packed[f"{layer}.qzeros"] = _pack(zeros)
        packed[f"{layer}.scales"] = scales.half()
        same[name] = _weights(levels, zeros, scales.half(), group_size).t().half().contiguous()
    return packed, same


def _quantize(
    weight: torch.Tensor, group_size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Levels of 0 to 15 for weights of shape (inputs, outputs), and each group's zero and scale."""
    groups = weight.view(-1, group_size, weight.shape[1])
    low, high = groups.amin(1), groups.amax(1)
    scales = ((high - low) / _LEVELS).half().float()
    zeros = (-low / scales).round().clamp(0, _LEVELS)
    levels = (groups / scales[:, None] + zeros[:, None]).round().clamp(0, _LEVELS)
    return levels.view_as(weight).int(), zeros.int(), scales


def _weights(
    levels: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor, group_size: int
) -> torch.Tensor:
    repeated = (one.repeat_interleave(group_size, 0) for one in (zeros, scales.float()))
    zero, scale = repeated
    return (levels - zero) * scale


def _pack(levels: torch.Tensor) -> torch.Tensor:
    """Eight neighbouring outputs in one int32."""
    eights = levels.view(levels.shape[0], -1, 8)
    packed = torch.zeros(eights.shape[:2], dtype=torch.int32)
    for neighbour, place in enumerate(_PLACES):
        packed |= eights[:, :, neighbour] << (4 * place)
    return packed.contiguous()
