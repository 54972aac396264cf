//! Kinds of clusters by how their nodes are joined, and what NCCL must be told on each.
//!
//! Every variable has its reason and the public page that documents it; both go into the script as comments.

use std::str::FromStr;

use super::SlurmError;

/// A kind of cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cluster {
    /// Nothing is known of it, and nothing is set.
    Plain,
    /// HPE Cray EX: four GH200 in a node, one Slingshot NIC of 200 Gb/s for each.
    Gh200Slingshot,
    /// A100 joined by NVLink, nodes by InfiniBand.
    A100Infiniband,
}

/// A variable of the environment, why it is set, and where that is documented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Name.
    pub name: &'static str,
    /// Value, as the shell reads it: between double quotes.
    pub value: &'static str,
    /// What it does, for a comment.
    pub reason: &'static str,
    /// Page.
    pub source: &'static str,
}

const fn variable(
    name: &'static str,
    value: &'static str,
    reason: &'static str,
    source: &'static str,
) -> Variable {
    Variable {
        name,
        value,
        reason,
        source,
    }
}

const NCCL: &str = "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html";
const CXI: &str = "https://ofiwg.github.io/libfabric/main/man/fi_cxi.7.html";
const FI_MR: &str = "https://ofiwg.github.io/libfabric/main/man/fi_mr.3.html";
const AWS_OFI: &str = "https://github.com/aws/aws-ofi-nccl";
const ALPS: &str = "https://docs.cscs.ch/software/communication/nccl/";
const ISAMBARD: &str = "https://docs.isambard.ac.uk/user-documentation/guides/nccl/";
const CUDA: &str = "https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables";

/// Where the driver keeps machine code made from PTX.
const CODE_CACHE: Variable = variable(
    "CUDA_CACHE_PATH",
    "${TMPDIR:-/tmp}/cuda-cache-${SLURM_JOB_ID}",
    "The driver keeps compiled kernels here: a local disk, not the home folder that all nodes share.",
    CUDA,
);

/// Between Slingshot nodes, NCCL goes through libfabric.
const SLINGSHOT: &[Variable] = &[
    variable(
        "NCCL_NET",
        "AWS Libfabric",
        "Only the libfabric plugin drives Slingshot. Named here, a missing plugin is an error; else NCCL takes slow TCP.",
        AWS_OFI,
    ),
    variable(
        "NCCL_SOCKET_IFNAME",
        "hsn",
        "NCCL's first words go over IP: by the Slingshot interfaces hsn0, hsn1, ..., which reach every node.",
        ISAMBARD,
    ),
    variable(
        "NCCL_CROSS_NIC",
        "1",
        "A ring may leave by another NIC than it came in by: the NICs of a node share one network.",
        NCCL,
    ),
    variable(
        "NCCL_NET_GDR_LEVEL",
        "PHB",
        "NIC and GPU of one Grace Hopper exchange data without a copy through host memory.",
        ALPS,
    ),
    variable(
        "FI_MR_CACHE_MONITOR",
        "userfaultfd",
        "The kernel tells libfabric of freed memory; its other ways intercept the calls of the allocator.",
        FI_MR,
    ),
    variable(
        "FI_CXI_DISABLE_HOST_REGISTER",
        "1",
        "libfabric does not page-lock its host buffers for the GPU, which costs memory and time with a rank for each GPU.",
        CXI,
    ),
    variable(
        "FI_CXI_DEFAULT_CQ_SIZE",
        "131072",
        "Entries of a completion queue: the plugin leaves that to the provider, and a full queue holds senders back.",
        CXI,
    ),
    variable(
        "FI_CXI_DEFAULT_TX_SIZE",
        "32768",
        "Operations that may be under way, which the plugin leaves to the provider too.",
        CXI,
    ),
    variable(
        "FI_CXI_RX_MATCH_MODE",
        "software",
        "The CPU matches messages: where the NIC does it, its resources run out and flow control holds senders back.",
        CXI,
    ),
    variable(
        "FI_CXI_SAFE_DEVMEM_COPY_THRESHOLD",
        "16777216",
        "The CPU itself copies up to this many bytes of GPU memory that it can reach by loads and stores.",
        CXI,
    ),
    variable(
        "FI_CXI_COMPAT",
        "0",
        "Only libfabric's upstream names of the provider: the older ones are for programs built before.",
        CXI,
    ),
];

const INFINIBAND: &[Variable] = &[variable(
    "NCCL_NET",
    "IB",
    "InfiniBand verbs or nothing: without it NCCL takes slow TCP where it finds no usable adapter, and says so only in its log.",
    NCCL,
)];

impl Cluster {
    /// All kinds, with the name of each.
    pub const ALL: [(&'static str, Self); 3] = [
        ("plain", Self::Plain),
        ("gh200-slingshot", Self::Gh200Slingshot),
        ("a100-infiniband", Self::A100Infiniband),
    ];

    /// CPUs for each GPU, where all clusters of this kind have the same.
    pub fn cpus_per_gpu(self) -> Option<usize> {
        match self {
            // A Grace has 72 cores.
            Self::Gh200Slingshot => Some(72),
            Self::Plain | Self::A100Infiniband => None,
        }
    }

    /// What is set in a job of so many nodes. Inside one node NCCL needs no word: it finds NVLink.
    pub fn variables(self, nodes: usize) -> Vec<Variable> {
        let between: &[Variable] = match self {
            Self::Plain => return Vec::new(),
            Self::Gh200Slingshot => SLINGSHOT,
            Self::A100Infiniband => INFINIBAND,
        };
        let between = if nodes > 1 { between } else { &[] };
        [CODE_CACHE].iter().chain(between).copied().collect()
    }
}

impl FromStr for Cluster {
    type Err = SlurmError;

    fn from_str(name: &str) -> Result<Self, SlurmError> {
        let found = Self::ALL.into_iter().find(|(known, _)| *known == name);
        found
            .map(|(_, cluster)| cluster)
            .ok_or_else(|| SlurmError::Cluster { name: name.into() })
    }
}
