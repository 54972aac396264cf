//! NCCL and the way it is going to take: NVLink and PCIe inside a node; Slingshot, InfiniBand or Ethernet between nodes.

use super::{Asked, Probe, Section, State, gpu::not_searched, launch};

/// NCCL's own name for its library; pip's wheel has no other.
const NCCL: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// Names under which the plugin for libfabric is built.
const OFI_PLUGIN: [&str; 3] = ["libnccl-net-ofi.so", "libnccl-net-aws-ofi.so", "libnccl-net.so"];

pub(super) fn examine(probe: &dyn Probe, asked: &Asked, out: &mut Section<'_>) {
    let ranks = asked.devices.unwrap_or_else(|| launch::world_size(probe));
    let is_needed = asked.cuda() && ranks > 1;
    match probe.library(&NCCL) {
        Some(path) => {
            let real = probe.real(&path).filter(|real| *real != path);
            let detail = real.map_or(path.clone(), |real| format!("{path} -> {real}"));
            out.add("NCCL", State::Found, detail);
        }
        None => {
            let elsewhere = probe.in_wheel(&["nccl"], &NCCL);
            let install = "install libnccl2 (or pip install nvidia-nccl-cu13); one GPU needs none";
            let (detail, hint) = not_searched("libnccl.so.2", elsewhere, install);
            out.hinted("NCCL", State::absent(is_needed), detail, hint);
        }
    }
    if let Some(net) = probe.set("NCCL_NET") {
        out.add(
            "NCCL_NET",
            State::Found,
            format!("{net}: NCCL takes this network or none"),
        );
    }
    transport(probe, is_needed && launch::num_nodes(probe) > 1, out);
}

/// What NCCL will find between nodes.
fn transport(probe: &dyn Probe, is_needed: bool, out: &mut Section<'_>) {
    let cxi = probe.names("/sys/class/cxi");
    if !cxi.is_empty() {
        return slingshot(probe, &cxi, is_needed, out);
    }
    let adapters = probe.names("/sys/class/infiniband");
    if !adapters.is_empty() {
        return infiniband(probe, &adapters, is_needed, out);
    }
    let interfaces: Vec<String> = probe
        .names("/sys/class/net")
        .into_iter()
        .filter(|name| {
            name != "lo"
                && !["docker", "veth", "br-", "virbr"]
                    .iter()
                    .any(|start| name.starts_with(start))
        })
        .filter_map(|name| {
            let folder = format!("/sys/class/net/{name}");
            let is_up = probe.text(&format!("{folder}/operstate"))?.trim() == "up";
            let speed = probe.text(&format!("{folder}/speed")).unwrap_or_default();
            let speed = match speed.trim().parse::<i64>() {
                Ok(speed) if speed > 0 => format!(" {speed} Mb/s"),
                _ => String::new(),
            };
            is_up.then(|| format!("{name}{speed}"))
        })
        .collect();
    match interfaces.is_empty() {
        true => out.add(
            "between nodes",
            State::absent(is_needed),
            "no network interface is up".into(),
        ),
        false => out.add(
            "between nodes",
            if is_needed { State::Note } else { State::Found },
            format!("TCP sockets over {}", interfaces.join(", ")),
        ),
    }
}

/// NCCL reaches Slingshot by a plugin that speaks libfabric, and nothing else.
fn slingshot(probe: &dyn Probe, nics: &[String], is_needed: bool, out: &mut Section<'_>) {
    let nics = nics.join(", ");
    let plugin = probe.library(&OFI_PLUGIN);
    let libfabric = probe.library(&["libfabric.so.1", "libfabric.so"]);
    match (plugin, libfabric) {
        (Some(plugin), Some(_)) => out.add(
            "between nodes",
            State::Found,
            format!("Slingshot {nics}, by libfabric and {plugin}"),
        ),
        (plugin, libfabric) => {
            let missing = [
                plugin.is_none().then_some("the plugin libnccl-net-ofi.so"),
                libfabric.is_none().then_some("libfabric.so.1"),
            ];
            let missing: Vec<_> = missing.into_iter().flatten().collect();
            out.hinted(
                "between nodes",
                if is_needed { State::Missing } else { State::Note },
                format!(
                    "Slingshot {nics}, without {}: NCCL would take TCP",
                    missing.join(" and ")
                ),
                "load the site's aws-ofi-nccl module or container hook (https://github.com/aws/aws-ofi-nccl)"
                    .into(),
            );
        }
    }
}

fn infiniband(probe: &dyn Probe, adapters: &[String], is_needed: bool, out: &mut Section<'_>) {
    let of_port = |adapter: &String, name: &str| {
        let text = probe.text(&format!("/sys/class/infiniband/{adapter}/ports/1/{name}"));
        text.map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    let (active, idle): (Vec<_>, Vec<_>) = adapters
        .iter()
        .partition(|adapter| of_port(adapter, "state").contains("ACTIVE"));
    let described: Vec<String> = active
        .iter()
        .map(|adapter| {
            format!(
                "{adapter} {} ({})",
                of_port(adapter, "rate"),
                of_port(adapter, "link_layer")
            )
        })
        .collect();
    if described.is_empty() {
        let names: Vec<_> = idle.into_iter().cloned().collect();
        return out.hinted(
            "between nodes",
            if is_needed { State::Missing } else { State::Note },
            format!("no port is active: {}", names.join(", ")),
            "ask the site, or let NCCL_IB_HCA name the right adapters".into(),
        );
    }
    out.add(
        "between nodes",
        State::Found,
        format!("verbs over {}", described.join(", ")),
    );
    if launch::limit(probe, "Max locked memory").is_some_and(|limit| limit != "unlimited") {
        out.hinted(
            "locked memory",
            if is_needed { State::Missing } else { State::Note },
            "limited, and InfiniBand locks what it sends".into(),
            "ulimit -l unlimited in the shell that submits, or ask the site (SLURM: PropagateResourceLimitsExcept=MEMLOCK)".into(),
        );
    }
}
