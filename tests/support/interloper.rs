//! Someone between a home and its node who has the keys of both, and so can change what they say to each
//! other: damage as it may be on the way, or in a program that is not as it should be.
//!
//! What is harmed is one object, by its id, in whatever form it is sent; all else goes through as it came.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use baton_daemon::identity::Identity;
use baton_daemon::transport::TransportError;
use baton_daemon::transport::connection::Connection;
use baton_daemon::transport::quic::{connect, dialling_endpoint, listen};
use baton_daemon::transport::stream::{Frame, FrameReader, FrameStream, FrameWriter};
use baton_protocol::batch::{Batch, Parcel};
use baton_protocol::frame::{FrameKind, encode_header};
use baton_protocol::id::{DeviceId, NodeId, ObjectId};
use baton_store::layout::Class;
use baton_store::segment::{RecordBuilder, decode_record};

/// Patience with each frame: a request may wait for the end of a run.
const STALL: Duration = Duration::from_mins(2);

/// What happens to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// Its last bit is another one.
    Corrupted,
    /// It does not come.
    Missing,
}

/// What is to be harmed, and how often it was.
#[derive(Debug, Default)]
struct Orders {
    target: Mutex<Option<(ObjectId, Harm)>>,
    met: AtomicU64,
    devices: Mutex<HashMap<DeviceId, Identity>>,
}

/// Goes when it is dropped.
pub(crate) struct Interloper {
    _runtime: tokio::runtime::Runtime,
    orders: Arc<Orders>,
    /// Where homes find it.
    pub(crate) address: SocketAddr,
}

impl Interloper {
    /// Takes the place of the node with these keys, which will listen at the address that `node` says.
    pub(crate) fn new(identity: &Identity, node: Arc<Mutex<Option<SocketAddr>>>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let orders = Arc::new(Orders::default());
        let endpoint = {
            let _inside = runtime.enter();
            listen(identity, "127.0.0.1:0".parse().unwrap()).unwrap()
        };
        let address = endpoint.local_addr().unwrap();
        let (these, id) = (Arc::clone(&orders), identity.node());
        runtime.spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let (orders, node) = (Arc::clone(&these), Arc::clone(&node));
                tokio::spawn(async move {
                    if let Ok(connection) = incoming.await {
                        let to = node.lock().unwrap_or_else(PoisonError::into_inner).unwrap();
                        between(Connection::Quic(connection), to, id, orders).await;
                    }
                });
            }
        });
        Self { _runtime: runtime, orders, address }
    }

    /// Lets a home through: what it has to say is said in its name.
    pub(crate) fn knows(&self, identity: Identity) {
        let mut devices = self.orders.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.insert(identity.device(), identity);
    }

    /// From now on this object is harmed.
    pub(crate) fn harm(&self, object: ObjectId, harm: Harm) {
        self.orders.met.store(0, Ordering::SeqCst);
        *self.orders.target.lock().unwrap_or_else(PoisonError::into_inner) = Some((object, harm));
    }

    /// Nothing is harmed any more. Returns how often something was.
    pub(crate) fn stop(&self) -> u64 {
        *self.orders.target.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.orders.met.load(Ordering::SeqCst)
    }
}

/// One connection of a home, and the one to the node that stands for it.
async fn between(home: Connection, to: SocketAddr, node: NodeId, orders: Arc<Orders>) {
    let identity = home.device().and_then(|id| {
        let devices = orders.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.get(&id).cloned()
    });
    let Some(identity) = identity else { return };
    let endpoint = dialling_endpoint().unwrap();
    let Ok(there) = connect(&endpoint, &identity, node, to, STALL).await else { return };
    let there = Connection::Quic(there);
    loop {
        let streams = tokio::select! {
            streams = home.accept() => streams,
            // Whoever is gone there is gone here.
            () = there.closed() => return,
        };
        let Ok(streams) = streams else { return };
        let here = FrameStream::accepted(&home, streams, STALL);
        let Ok(streams) = there.open().await else { return };
        let there = FrameStream::dialled(&there, streams, STALL, Arc::new(()));
        let orders = Arc::clone(&orders);
        tokio::spawn(async move {
            let none = Orders::default();
            let up = pump(here.reader, there.writer, &orders);
            let down = pump(there.reader, here.writer, &none);
            tokio::join!(up, down);
        });
    }
}

/// One direction of a stream.
async fn pump(mut from: FrameReader, mut to: FrameWriter, orders: &Orders) {
    loop {
        match from.next().await {
            Ok(Some(frame)) => {
                let Some(frame) = orders.apply(frame) else { continue };
                let header = encode_header(frame.kind, frame.body.len()).unwrap();
                let bytes = [&header[..], &frame.body].concat();
                match to.write(&bytes).await {
                    Ok(()) => {}
                    Err(TransportError::Stopped) => return from.stop(),
                    Err(_) => return to.abandon(),
                }
            }
            Ok(None) => {
                to.finish();
                return to.delivered().await;
            }
            Err(_) => return to.abandon(),
        }
    }
}

impl Orders {
    /// The frame with what is to be harmed harmed; nothing where nothing is left of it.
    fn apply(&self, frame: Frame) -> Option<Frame> {
        let target = *self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((target, harm)) = target else { return Some(frame) };
        let objects: Vec<(ObjectId, Vec<u8>)> = match frame.kind {
            FrameKind::Message => return Some(frame),
            FrameKind::Objects => {
                let parcel = Parcel::decode(&frame.body).unwrap();
                // Differences are from what the node has, and that is harmed no more.
                let Some(objects) = parcel.whole().unwrap() else { return Some(frame) };
                objects
                    .into_iter()
                    .map(|(kind, bytes)| (ObjectId::of(kind, &bytes), bytes))
                    .collect()
            }
            FrameKind::Record => {
                let record = decode_record(&frame.body).unwrap();
                let entries = record.entries.iter();
                entries.map(|entry| (entry.id, record.bytes(entry).to_vec())).collect()
            }
        };
        if objects.iter().all(|(id, _)| *id != target) {
            return Some(frame);
        }
        self.met.fetch_add(1, Ordering::SeqCst);
        let harmed = objects.into_iter().filter_map(|(id, mut bytes)| {
            if id == target {
                match harm {
                    Harm::Missing => return None,
                    Harm::Corrupted => *bytes.last_mut().unwrap() ^= 1,
                }
            }
            Some((id, bytes))
        });
        let (mut batch, mut record) = (Batch::new(), RecordBuilder::default());
        let mut count = 0;
        for (id, bytes) in harmed {
            batch.push_full(id.kind, &bytes);
            record.push(id, &bytes);
            count += 1;
        }
        let body = match frame.kind {
            FrameKind::Record => record.encode(Class::Data).unwrap(),
            _ => batch.finish().unwrap(),
        };
        (count > 0).then_some(Frame { body, ..frame })
    }
}
