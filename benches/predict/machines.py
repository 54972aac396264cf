"""Published figures of the hardware, each with its source. Bytes per second are of one direction."""

from dataclasses import dataclass

GB = 1e9
GIB = 2**30


@dataclass(frozen=True)
class Machine:
    name: str
    gpus_per_node: int
    peak_flops: float  # bf16, dense
    memory: int  # of one GPU
    reserved: int  # CUDA context, NCCL's buffers, kernels' scratch: an assumption
    inside: float  # between GPUs of a node, of one GPU
    nic: float  # between nodes, of one GPU
    to_host: float  # between GPU and host memory, of one GPU
    host_memory: int  # for one GPU
    host_stream: float  # bandwidth of host memory, for one GPU


GH200 = Machine(
    name="GH200",
    gpus_per_node=4,
    # H100 SXM and GH200 data sheets: 1,979 TFLOP/s with sparsity, half of it without.
    # https://resources.nvidia.com/en-us-grace-cpu/grace-hopper-superchip
    peak_flops=989e12,
    # 96 GB of HBM3, the model of Alps (the other one has 144 GB of HBM3e). Same sheet.
    memory=96 * 10**9,
    reserved=4 * GIB,
    # Four GH200 of a node: six NVLink 4 links of 25 GB/s for each pair, 150 GB/s, three peers.
    # https://arxiv.org/abs/2408.11556
    inside=450 * GB,
    # Slingshot 11, one NIC of 200 Gb/s for each GH200. https://docs.cscs.ch/alps/hardware/
    nic=25 * GB,
    # NVLink-C2C: 900 GB/s in both directions together. Data sheet.
    to_host=450 * GB,
    # 120 GB of LPDDR5X for each Grace, up to 512 GB/s. Data sheet.
    host_memory=120 * 10**9,
    host_stream=512 * GB,
)

A100_40 = Machine(
    name="A100-40GB",
    gpus_per_node=8,
    # https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet.pdf
    peak_flops=312e12,
    memory=40 * 10**9,
    reserved=3 * GIB,
    # NVLink 3: 600 GB/s in both directions together, through NVSwitch. Same sheet.
    inside=300 * GB,
    # HDR InfiniBand, 200 Gb/s for each GPU, as in a DGX A100.
    # https://images.nvidia.com/aem-dam/Solutions/Data-Center/nvidia-dgx-a100-datasheet.pdf
    nic=25 * GB,
    # PCIe 4 x16.
    to_host=32 * GB,
    # DGX A100: 1 TB and two EPYC 7742 with eight channels of DDR4-3200 each, 204.8 GB/s, for eight GPUs.
    host_memory=128 * 10**9,
    host_stream=51 * GB,
)

MACHINES = {machine.name: machine for machine in (GH200, A100_40)}

# Seconds for one hop of a message, protocol Simple: NCCL's own model of its algorithms (`hwLat` and `baseLat` in
# https://github.com/NVIDIA/nccl/blob/v2.26.2-1/src/graph/tuning.cc).
START = 8.4e-6
RING_HOP_INSIDE = 3.4e-6
RING_HOP_NET = 14.0e-6
TREE_HOP_INSIDE = 4.0e-6
TREE_HOP_NET = 14.0e-6
