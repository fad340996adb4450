//! What `doctor` says of the rooms of runs: whether there are any, what holds runs to their limits, and what they see.

use super::super::rooming::Rooming;
use super::machine::verdict;
use crate::api::control::DoctorCheck;
use crate::limits::allowance::Size;

pub(super) fn checks(rooming: &Rooming) -> Vec<DoctorCheck> {
    vec![isolation(rooming), limits(rooming), toolchains(rooming)]
}

fn isolation(rooming: &Rooming) -> DoctorCheck {
    match &rooming.isolation {
        Ok(()) => verdict("isolation", true, "runs are in bubblewrap rooms".to_owned(), ""),
        Err(why) => verdict(
            "isolation",
            false,
            format!("runs are not isolated: {why}"),
            "install bubblewrap (apt install bubblewrap) and allow user namespaces",
        ),
    }
}

/// Where the kernel keeps no limit, runs are watched: that works, and is late.
fn limits(rooming: &Rooming) -> DoctorCheck {
    let (force, allowance) = (rooming.limits.in_force(), &rooming.allowance);
    let kept = |kept: bool| if kept { "" } else { ", watched" };
    let mut each = Vec::new();
    if let Some(memory) = allowance.memory {
        each.push(format!("{} of memory{}", Size(memory), kept(force.memory)));
    }
    if let Some(processes) = allowance.processes {
        each.push(format!("{processes} processes{}", kept(force.processes)));
    }
    if let Some(milli_cpus) = allowance.milli_cpus {
        let kept = if force.cpus { "" } else { ", which nothing keeps" };
        let (whole, rest) = (milli_cpus / 1000, milli_cpus % 1000);
        each.push(format!("{whole}.{rest:03} processors{kept}"));
    }
    each.push(match allowance.disk {
        Some(disk) => format!("{} on the disk", Size(disk)),
        None => "half of what is free on the disk".to_owned(),
    });
    let detail = format!("a run may take {}; {}", each.join(", "), rooming.limits.detail());
    let ok = force.memory && force.processes && (force.cpus || allowance.milli_cpus.is_none());
    let fix = "let the kernel keep them: start the node as a service that has its control group to itself (baton service \
               install --serve, or Delegate=yes in a unit of your own), or as root";
    verdict("limits", ok, detail, fix)
}

fn toolchains(rooming: &Rooming) -> DoctorCheck {
    let names = &rooming.toolchains.names;
    let detail = if names.is_empty() {
        "runs see the programs of the system; no others are exposed".to_owned()
    } else {
        format!("runs also see, read-only: {}", names.join(", "))
    };
    verdict("toolchains", true, detail, "")
}
