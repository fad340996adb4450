//! The secrets that a node keeps for this home's user.
//!
//! Not here: keeping them. This home asks, and keeps nothing of it: a node that cannot be reached is an error, and not
//! something for the queue, which is on the disk.

use std::sync::Arc;

use baton_protocol::message::secrets::{SecretEntry, SetSecret};
use baton_protocol::message::{Reply, Request};

use super::Daemon;
use super::failure::Fail;
use super::remotes::Target;
use crate::api::control::{Answer, SecretAnswer, SecretsAnswer};

const LIST: &str = "baton secret list";

impl Daemon {
    pub(super) async fn secret_set(
        self: &Arc<Self>,
        secret: Box<SetSecret>,
        remote: Option<String>,
    ) -> Result<Answer, Fail> {
        check(secret.check())?;
        let target = self.target(remote).await?;
        let kept = self.ask_secrets(&target, Request::SetSecret(secret)).await?;
        Ok(answer(target, kept))
    }

    pub(super) async fn secret_list(
        self: &Arc<Self>,
        remote: Option<String>,
    ) -> Result<Answer, Fail> {
        let target = self.target(remote).await?;
        let kept = self.ask_secrets(&target, Request::ListSecrets).await?;
        Ok(answer(target, kept))
    }

    pub(super) async fn secret_remove(
        self: &Arc<Self>,
        name: &str,
        agent: Option<String>,
        remote: Option<String>,
    ) -> Result<Answer, Fail> {
        let target = self.target(remote).await?;
        let mut kept = self.ask_secrets(&target, Request::ListSecrets).await?;
        let is_meant =
            |entry: &&SecretEntry| entry.name == name && (agent.is_none() || entry.agent == agent);
        let meant: Vec<_> = kept.iter().filter(is_meant).cloned().collect();
        if meant.is_empty() {
            let of = agent.map(|agent| format!(" for {agent}")).unwrap_or_default();
            let what = format!("{} keeps no secret {name}{of}", target.remote.name);
            return Err(Fail::new("not-found", what).hint(LIST));
        }
        for entry in meant {
            kept = self.ask_secrets(&target, Request::RemoveSecret(entry)).await?;
        }
        Ok(answer(target, kept))
    }

    async fn ask_secrets(
        self: &Arc<Self>,
        target: &Target,
        request: Request,
    ) -> Result<Vec<SecretEntry>, Fail> {
        match self.pool.request(&target.remote, request).await? {
            Reply::Secrets(kept) => Ok(kept),
            _ => Err(Fail::new("transport", "the node answered something else than was asked")),
        }
    }
}

/// Refuses what the node would refuse, before anything is sent.
fn check(checked: Result<(), baton_protocol::message::secrets::SecretError>) -> Result<(), Fail> {
    checked.map_err(|error| Fail::new("secret", error.to_string()).hint("baton secret set --help"))
}

fn answer(target: Target, kept: Vec<SecretEntry>) -> Answer {
    let entry = |SecretEntry { name, agent, push }| SecretAnswer {
        name,
        agent,
        push: push.map(|scope| scope.name().to_owned()),
    };
    Answer::Secrets(SecretsAnswer {
        remote: target.remote.name,
        secrets: kept.into_iter().map(entry).collect(),
    })
}
