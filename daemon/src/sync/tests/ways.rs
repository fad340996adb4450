//! A network that lets no UDP through: the same sessions over TCP, and QUIC again as soon as it does.

use super::network::udp_proxy::{UdpProxy, Weather};
use super::*;
use crate::transport::connection::Way;

/// What stands before a node: UDP goes through where the proxy lets it, TCP always.
struct Network {
    udp: UdpProxy,
    tasks: Tasks,
}

impl Network {
    fn new(cloud: &Cloud) -> Self {
        let tasks = Tasks::new();
        // Any port that both have.
        let (udp, listener) = loop {
            let udp = UdpProxy::new(cloud.node.address(), 1, Weather::default());
            if let Ok(listener) = crate::transport::tcp::listen(udp.address()) {
                break (udp, listener);
            }
        };
        let (spawn, node) = (tasks.clone(), cloud.node.address());
        let forward = async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let carry = async move {
                    let mut to = tokio::net::TcpStream::connect(node).await.unwrap();
                    drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
                };
                spawn.spawn("carrying", carry).detach();
            }
        };
        tasks.spawn("forwarding", forward).detach();
        Self { udp, tasks }
    }

    /// A home behind it, not joined.
    fn home(&self, cloud: &Cloud, quic_again: Duration) -> (Home, Remote) {
        let mut home = Home::new();
        let long = Duration::from_secs(20);
        let patience = Patience { connect: long, join: long, quic_again, ..Patience::default() };
        home.pool = Pool::new(home.identity.clone(), home.tasks.clone(), patience).unwrap();
        (home, remote(&cloud.identity, self.udp.address()))
    }
}

/// No timer of a test comes to that.
const NEVER: Duration = Duration::from_hours(10);

#[tokio::test(flavor = "multi_thread")]
async fn where_udp_is_blocked_a_home_joins_pushes_and_fetches_over_tcp() {
    let cloud = Cloud::start(&Settings::default());
    let network = Network::new(&cloud);
    network.udp.blackhole(true);
    let (home, remote) = network.home(&cloud, NEVER);
    join(&home, &cloud.catalog, &remote, "owner", &cloud.clock).await;
    let mut files = bulk(1);
    let first = home.snapshot(&files, 1);
    let cold = home.pushed(&remote, None, first).await;
    assert_eq!(cold.objects_sent, 46);
    files.get_mut("b1/f1").unwrap()[100] ^= 1;
    let second = home.snapshot(&files, 2);
    let edit = home.pushed(&remote, Some(first), second).await;
    assert_eq!((edit.round_trips, edit.objects_sent), (1, 4));
    assert!(has(&cloud.vault_of(&home), second));
    let (other, to) = network.home(&cloud, NEVER);
    join(&other, &cloud.catalog, &to, "owner", &cloud.clock).await;
    assert_eq!(other.fetch(&to, second).await.unwrap(), 46);
    for pool in [&home.pool, &other.pool] {
        assert_eq!(pool.way(remote.node), Some(Way::Tcp));
    }
    assert!(network.udp.counts().lost > 0, "QUIC was tried");
    assert_eq!(network.udp.counts().to_server, 0);
    // A revocation cuts such a connection as any other.
    cloud.node.revoke(home.device()).unwrap();
    let refused = home.push(&remote, Some(first), second).await.unwrap_err();
    assert!(!refused.is_retryable(), "{refused}");
    network.tasks.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_udp_comes_back_quic_takes_over_and_what_is_under_way_stays() {
    let cloud = Cloud::start(&Settings::default());
    let network = Network::new(&cloud);
    network.udp.blackhole(true);
    let (home, remote) = network.home(&cloud, Duration::from_millis(100));
    join(&home, &cloud.catalog, &remote, "owner", &cloud.clock).await;
    let mut stream = home.pool.open(&remote).await.unwrap();
    assert_eq!(home.pool.way(remote.node), Some(Way::Tcp));
    network.udp.blackhole(false);
    within(async {
        while home.pool.way(remote.node) != Some(Way::Quic) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // The stream from before is as good as ever.
    stream.send(&Opening::new(Request::Hello)).await.unwrap();
    stream.finish();
    assert!(matches!(stream.receive().await.unwrap(), Reply::Welcome(_)));
    drop(stream);
    within(async {
        while cloud.node.connections().0 > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let new = home.snapshot(&project(), 1);
    home.pushed(&remote, None, new).await;
    assert_eq!(home.pool.way(remote.node), Some(Way::Quic));
    network.tasks.cancel();
}

/// A connection over QUIC stands when the network begins to swallow UDP; later it is let through again.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_begins_to_swallow_udp_is_left_for_tcp_and_found_again() {
    let cloud = Cloud::start(&Settings::default());
    let network = Network::new(&cloud);
    let (home, remote) = network.home(&cloud, Duration::from_millis(100));
    join(&home, &cloud.catalog, &remote, "owner", &cloud.clock).await;
    let first = home.snapshot(&project(), 1);
    home.pushed(&remote, None, first).await;
    assert_eq!(home.pool.way(remote.node), Some(Way::Quic));
    network.udp.blackhole(true);
    let second = home.snapshot(&bulk(3), 2);
    let cut = home.push(&remote, Some(first), second).await.unwrap_err();
    assert!(cut.is_retryable(), "{cut}");
    home.pushed(&remote, Some(first), second).await;
    assert_eq!(home.pool.way(remote.node), Some(Way::Tcp));
    // The next connection begins with both at once; on loopback either may win.
    network.udp.blackhole(false);
    home.pool.forget(remote.node).await;
    home.pool.hello(&remote).await.unwrap();
    let told = async {
        while home.pool.way(remote.node) != Some(Way::Quic) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(told).await;
    network.tasks.cancel();
}
