//! Which role a request needs.

use baton_protocol::message::{Forget, Refusal, RefusalCode, Request};
use baton_store::catalog::devices::{Device, Role};

/// The least role that may ask this.
pub const fn required(request: &Request) -> Role {
    match request {
        Request::Join { .. }
        | Request::Hello
        | Request::Push(_)
        | Request::Ahead
        | Request::Fetch
        | Request::Refs
        | Request::ListRuns
        | Request::ShowRun(_)
        | Request::Logs { .. }
        | Request::WaitRun(_)
        | Request::KeepRun(_)
        | Request::Forget(Forget::Thinned(_)) => Role::Push,
        Request::CreateRun(_)
        | Request::CheckAgents(_)
        | Request::TryAgent(_)
        | Request::CancelRun(_)
        | Request::SayRun { .. }
        | Request::AnswerRun { .. }
        | Request::DeleteRun(_)
        | Request::Forget(_)
        | Request::SetSecret(_)
        | Request::ListSecrets
        | Request::RemoveSecret(_) => Role::Run,
    }
}

/// The word for a request, as in `docs/protocol.md`.
pub const fn name(request: &Request) -> &'static str {
    match request {
        Request::Join { .. } => "Join",
        Request::Hello => "Hello",
        Request::Push(_) => "Push",
        Request::Fetch => "Fetch",
        Request::Refs => "Refs",
        Request::CreateRun(_) => "CreateRun",
        Request::ListRuns => "ListRuns",
        Request::ShowRun(_) => "ShowRun",
        Request::Logs { .. } => "Logs",
        Request::WaitRun(_) => "WaitRun",
        Request::CancelRun(_) => "CancelRun",
        Request::Ahead => "Ahead",
        Request::SetSecret(_) => "SetSecret",
        Request::ListSecrets => "ListSecrets",
        Request::RemoveSecret(_) => "RemoveSecret",
        Request::SayRun { .. } => "SayRun",
        Request::AnswerRun { .. } => "AnswerRun",
        Request::DeleteRun(_) => "DeleteRun",
        Request::KeepRun(_) => "KeepRun",
        Request::CheckAgents(_) => "CheckAgents",
        Request::TryAgent(_) => "TryAgent",
        Request::Forget(Forget::Thinned(_)) => "Forget(Thinned)",
        Request::Forget(_) => "Forget",
    }
}

/// Refuses what a device's role does not allow.
pub fn check(device: &Device, request: &Request) -> Result<(), Refusal> {
    let needed = required(request);
    if device.role >= needed {
        return Ok(());
    }
    let message = format!(
        "this device has the role {}, and {} is needed; join again with a ticket for that role",
        device.role.name(),
        needed.name()
    );
    Err(Refusal { code: RefusalCode::Role, message })
}

#[cfg(test)]
mod tests {
    use baton_protocol::id::{DeviceId, RunId, VaultId};

    use super::*;

    #[test]
    fn a_device_that_may_only_push_starts_and_ends_no_run() {
        let mut device = Device {
            id: DeviceId::from_bytes([1; 32]),
            user: "ann".to_owned(),
            vault: VaultId::from_bytes([1; 16]),
            name: "laptop".to_owned(),
            role: Role::Push,
            revoked: false,
            last_seen: None,
            enrolled_at: 0,
        };
        let cancel = Request::CancelRun(RunId::from_bytes([1; 16]));
        assert!(check(&device, &Request::Fetch).is_ok());
        assert!(check(&device, &Request::ListRuns).is_ok());
        let refused = check(&device, &cancel).unwrap_err();
        assert_eq!(refused.code, RefusalCode::Role);
        assert!(refused.message.contains("run"));
        for role in [Role::Run, Role::Admin] {
            device.role = role;
            assert!(check(&device, &cancel).is_ok());
        }
    }
}
