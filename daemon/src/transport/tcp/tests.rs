//! Who answers on a TCP port, and what of it is a node.

use std::net::Ipv4Addr;

use super::*;
use crate::transport::testing::identity;

const WITHIN: Duration = Duration::from_secs(20);

/// A listener that answers with what `serve` makes of each socket.
async fn met<F>(serve: impl FnOnce(TcpStream) -> F, expected: &Identity) -> TransportError
where
    F: Future<Output = ()>,
{
    let listening = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = listening.local_addr().unwrap();
    let (tasks, home) = (Tasks::new(), identity());
    let accept = async { serve(listening.accept().await.unwrap().0).await };
    let dial = connect(&tasks, &home, expected.node(), address, WITHIN);
    let ((), dialled) = tokio::join!(accept, dial);
    dialled.unwrap_err()
}

#[tokio::test]
async fn another_key_than_the_pinned_one_is_named() {
    let (node, other) = (identity(), identity());
    let serve = |stream| async {
        let tls = server_config(&node).unwrap();
        assert!(accept(&Tasks::new(), &tls, stream).await.is_err());
    };
    let refused = met(serve, &other).await;
    let TransportError::Identity { expected, found, .. } = refused else { panic!("{refused}") };
    assert_eq!((expected, found), (other.node(), node.node()));
}

#[tokio::test]
async fn a_peer_that_speaks_something_else_is_named() {
    let node = identity();
    let web = |mut stream: TcpStream| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await.unwrap();
    };
    let refused = met(web, &node).await;
    assert!(matches!(refused, TransportError::Protocol { .. }), "{refused:?}");
    let other = |stream| async {
        let mut tls = tls::server_config(&node).unwrap();
        tls.alpn_protocols = vec![b"other/9".to_vec()];
        assert!(accept(&Tasks::new(), &Arc::new(tls), stream).await.is_err());
    };
    let refused = met(other, &node).await;
    assert!(matches!(refused, TransportError::Protocol { .. }), "{refused:?}");
    let gone = met(|stream| async { drop(stream) }, &node).await;
    assert!(matches!(gone, TransportError::Tcp { .. }) && gone.is_retryable(), "{gone:?}");
}

#[tokio::test]
async fn a_closed_port_is_known_at_once() {
    let closed = {
        let listening = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        listening.local_addr().unwrap()
    };
    let key = identity();
    let refused = connect(&Tasks::new(), &key, key.node(), closed, WITHIN).await.unwrap_err();
    assert!(matches!(refused, TransportError::NobodyThere { .. }), "{refused}");
}

/// Bytes that are no frames, after a good handshake.
#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_cut_off() {
    let (node, home) = (identity(), identity());
    let listening = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = listening.local_addr().unwrap();
    let tls = server_config(&node).unwrap();
    let tasks = Tasks::new();
    let serve = async {
        let (stream, _) = listening.accept().await.unwrap();
        accept(&tasks, &tls, stream).await.unwrap()
    };
    let raw = async {
        let mut config = tls::client_config(&home, Pin::new(node.node())).unwrap();
        config.alpn_protocols = vec![ALPN_TCP.to_vec()];
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("node.baton.invalid").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        stream.write_all(&[77; 9]).await.unwrap();
        let mut heard = Vec::new();
        tokio::time::timeout(WITHIN, stream.read_to_end(&mut heard)).await.unwrap().unwrap();
        heard
    };
    let (served, heard) = tokio::join!(serve, raw);
    // A close, and why.
    assert_eq!(heard.last_chunk::<9>(), Some(&[9, 0, 0, 0, 0, 4, 0, 0, 0]));
    assert!(served.shared().lock().end.is_some());
}

/// What closes with its process, without a word, is noticed at once.
#[tokio::test]
async fn a_socket_that_ends_is_a_lost_connection() {
    let (node, home) = (identity(), identity());
    let listening = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = listening.local_addr().unwrap();
    let tls = server_config(&node).unwrap();
    let tasks = Tasks::new();
    let serve = async {
        let (stream, _) = listening.accept().await.unwrap();
        drop(TlsAcceptor::from(tls).accept(stream).await.unwrap());
    };
    let dial = connect(&tasks, &home, node.node(), address, WITHIN);
    let ((), dialled) = tokio::join!(serve, dial);
    let dialled = dialled.unwrap();
    let end =
        tokio::time::timeout(WITHIN, dialled.shared().until(|state| state.end)).await.unwrap();
    assert!(matches!(end, End::Lost(_)) && end.error().is_retryable(), "{end:?}");
}
