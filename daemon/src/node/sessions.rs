//! One request: its first frame, who may ask it, and who answers.
//!
//! **Invariant:** whatever comes, the peer hears why it was refused, unless the connection itself is
//! lost; and nothing of a request is kept before its device is known to be enrolled.

use std::sync::Arc;

use baton_protocol::frame::FrameKind;
use baton_protocol::message::{
    MAX_COMMAND, MAX_PROMPT, OLDEST, Opening, OpeningError, Refusal, RefusalCode, Reply, Request,
    newest as newest_spoken,
};

use super::registry::Peer;
use super::{Node, PROGRAM, Session, join, roles};
use crate::audit::Event;
use crate::transport::TransportError;
use crate::transport::connection::Streams;
use crate::transport::stream::FrameStream;

/// Longest first frame: arguments of one byte each have a length byte too.
const MAX_OPENING: usize = 2 * MAX_COMMAND + MAX_PROMPT + 64 * 1024;

/// Longest name of an agent.
const MAX_AGENT: usize = 64;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was answered.
    Answered,
    /// The device is enrolled since.
    Enrolled,
    /// The device may not ask.
    NotEnrolled,
    /// It was no request, or the peer is gone.
    Failed,
}

/// Serves one stream to its end.
pub(super) async fn serve(node: &Node, peer: &Peer, streams: Streams) -> Outcome {
    let _working = node.0.registry.work();
    let limits = node.0.gate.limits();
    let mut stream = FrameStream::accepted(&peer.connection, streams, limits.stall);
    let outcome = match opening(node, &mut stream).await {
        Ok(Ok(request)) => answer(node, peer, stream, request).await,
        Ok(Err(refusal)) => refuse(&mut stream, refusal).await.map(|()| Outcome::Failed),
        Err(error) => Err(error),
    };
    outcome.unwrap_or_else(|error| {
        tracing::debug!(device = %peer.id.short(), %error, "a request ended early");
        Outcome::Failed
    })
}

/// Reads the first frame: the request, or why it is refused.
async fn opening(
    node: &Node,
    stream: &mut FrameStream,
) -> Result<Result<Request, Refusal>, TransportError> {
    let malformed = || {
        let message = "the request is malformed".to_owned();
        Ok(Err(Refusal { code: RefusalCode::Malformed, message }))
    };
    let patience = node.0.gate.limits().opening;
    let frame = match stream.reader.frame_within(patience, MAX_OPENING).await {
        Ok(Some(frame)) => frame,
        Ok(None) => return Err(TransportError::Ended),
        Err(TransportError::Malformed(_)) => return malformed(),
        Err(error) => return Err(error),
    };
    if frame.kind != FrameKind::Message {
        return malformed();
    }
    match Opening::decode(&frame.body) {
        Ok(opening) => Ok(check_size(&opening.request).map(|()| opening.request)),
        Err(OpeningError::Version { oldest, newest }) => {
            let message = format!(
                "this node (baton {PROGRAM}) speaks versions {OLDEST} to {} of the messages, \
                 not {oldest} to {newest}",
                newest_spoken()
            );
            Ok(Err(Refusal { code: RefusalCode::Version, message }))
        }
        Err(OpeningError::Malformed(_)) => malformed(),
    }
}

/// Refuses what would be too large to keep.
fn check_size(request: &Request) -> Result<(), Refusal> {
    let Request::CreateRun(spec) = request else { return Ok(()) };
    let command: usize = spec.command.iter().map(Vec::len).sum();
    let prompt = spec.prompt.as_ref().map_or(0, String::len);
    let message = if command > MAX_COMMAND || spec.command.len() > MAX_COMMAND {
        format!("the command has more than {MAX_COMMAND} bytes")
    } else if prompt > MAX_PROMPT {
        format!("the prompt has more than {MAX_PROMPT} bytes")
    } else if spec.agent.len() > MAX_AGENT {
        format!("the agent's name has more than {MAX_AGENT} bytes")
    } else {
        return Ok(());
    };
    Err(Refusal { code: RefusalCode::Limit, message })
}

async fn answer(
    node: &Node,
    peer: &Peer,
    mut stream: FrameStream,
    request: Request,
) -> Result<Outcome, TransportError> {
    if node.is_closing() {
        let message = "the node is shutting down".to_owned();
        let refusal = Refusal { code: RefusalCode::Unavailable, message };
        return refuse(&mut stream, refusal).await.map(|()| Outcome::Failed);
    }
    if let Request::Join { secret, name } = &request {
        return match join::redeem(node, peer, *secret, name).await {
            Ok(device) => {
                let welcome = join::welcome(&device);
                peer.set_device(Some(device));
                stream.send(&Reply::Welcome(welcome)).await?;
                stream.finish();
                Ok(Outcome::Enrolled)
            }
            Err(refusal) => refuse(&mut stream, refusal).await.map(|()| Outcome::Failed),
        };
    }
    let Some(device) = peer.device() else {
        let (address, request) = (peer.connection.peer_address().ip(), roles::name(&request));
        let (device, user, why) = (Some(peer.id), None, "not enrolled, or revoked");
        node.0.audit.refused(&Event::Refused { device, user, address, request, why });
        let message = "this device is not enrolled here, or was revoked".to_owned();
        let refusal = Refusal { code: RefusalCode::UnknownDevice, message };
        refuse(&mut stream, refusal).await?;
        return Ok(Outcome::NotEnrolled);
    };
    let address = peer.connection.peer_address().ip();
    if let Err(refusal) = roles::check(&device, &request) {
        let (device, user, request) = (Some(device.id), Some(&*device.user), roles::name(&request));
        let why = &refusal.message;
        node.0.audit.refused(&Event::Refused { device, user, address, request, why });
        return refuse(&mut stream, refusal).await.map(|()| Outcome::Answered);
    }
    // Who asks more than that waits, and is told so only where that takes too long: what is refused for
    // good a home does not try again.
    let patience = node.0.gate.limits().opening;
    if !node.0.gate.pace(device.id, patience).await {
        let message = "this device asks too often; try again later".to_owned();
        let refusal = Refusal { code: RefusalCode::Unavailable, message };
        return refuse(&mut stream, refusal).await.map(|()| Outcome::Answered);
    }
    let Some(place) = node.0.gate.request(device.id) else {
        let message = "this device has too many requests at work; try again later".to_owned();
        let refusal = Refusal { code: RefusalCode::Unavailable, message };
        return refuse(&mut stream, refusal).await.map(|()| Outcome::Answered);
    };
    if matches!(request, Request::Push(_) | Request::Ahead | Request::Fetch | Request::Logs { .. })
    {
        peer.widen(node.0.gate.memory());
    }
    let (audit, turns) = (node.0.audit.clone(), node.0.gate.turns().clone());
    let mut session = Session { device, stream, address, audit, place, turns };
    if let Request::Hello = request {
        let welcome = join::welcome(&session.device);
        session.reply(&Reply::Welcome(welcome)).await?;
    } else {
        let unwanted = session.stream.writer.unwanted();
        let grace = node.0.gate.limits().stall;
        tokio::select! {
            done = Arc::clone(&node.0.handler).handle(session, request) => done?,
            () = async { unwanted.await; tokio::time::sleep(grace).await } => {
                return Err(TransportError::Abandoned);
            }
        }
    }
    Ok(Outcome::Answered)
}

/// Says no, and that the rest is not read; returns when the peer has heard it.
pub(super) async fn refuse(
    stream: &mut FrameStream,
    refusal: Refusal,
) -> Result<(), TransportError> {
    stream.send(&Reply::Refused(refusal)).await?;
    stream.finish();
    stream.reader.stop();
    stream.writer.delivered().await;
    Ok(())
}
