"""Published peaks of the GPUs that the tables name. Facts, dense (without 2:4 sparsity)."""

from __future__ import annotations

import dataclasses

from bench.cost.roofline import Machine


@dataclasses.dataclass(frozen=True)
class Gpu:
    """``memory`` in bytes (the vendor's decimal gigabytes); the rate is that of bfloat16 matrix
    products on tensor cores."""

    machine: Machine
    memory: float
    source: str


#: The data sheets of the H100 and the H200 print the rate with sparsity, 1,979 TFLOPS: twice that.
GPUS: dict[str, Gpu] = {
    "A100": Gpu(
        Machine("A100 80 GB SXM", 312e12, 2.039e12),
        80e9,
        "NVIDIA A100 Tensor Core GPU data sheet",
    ),
    "H100": Gpu(
        Machine("H100 80 GB SXM", 989e12, 3.35e12),
        80e9,
        "NVIDIA H100 Tensor Core GPU data sheet",
    ),
    "H200": Gpu(
        Machine("H200 141 GB SXM", 989e12, 4.8e12),
        141e9,
        "NVIDIA H200 Tensor Core GPU data sheet",
    ),
}
