//! Pushes and fetches through a network that delays, loses, repeats, reorders and damages packets.
//!
//! `BATON_SEEDS=0..100` draws as many networks, and with `BATON_NIGHTLY` what is pushed is 10 MB; a failure
//! names its seed. By default there are a few seeds and little is pushed.

#[path = "../../../../tests/support/rng.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests of whole programs")]
mod rng;
#[path = "../../../../tests/support/udp_proxy.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    reason = "shared with the tests of whole programs: has a clock and threads of its own"
)]
pub(super) mod udp_proxy;

use udp_proxy::{UdpProxy, Weather};

use super::*;

/// A mobile connection on a bad day: 50 ms there and back, at least.
const BAD: Weather = Weather {
    delay: Duration::from_millis(25),
    jitter: Duration::from_millis(5),
    loss: 20,
    duplicate: 10,
    corrupt: 5,
    late: 0,
    longest: 0,
};

/// A home whose way to the node leads through the weather.
async fn behind(cloud: &Cloud, proxy: &UdpProxy, user: &str) -> (Home, Remote) {
    let home = Home::new();
    let remote = remote(&cloud.identity, proxy.address());
    join(&home, &cloud.catalog, &remote, user, &cloud.clock).await;
    (home, remote)
}

/// 4.8 MB in 80 files and 10 folders.
fn large() -> Files {
    let mut files = bulk(1);
    files.extend(bulk(2).into_iter().map(|(path, bytes)| (format!("second/{path}"), bytes)));
    files
}

#[track_caller]
fn assert_bad(proxy: &UdpProxy) {
    let counts = proxy.counts();
    assert!(counts.lost > 20 && counts.duplicated > 10 && counts.corrupted > 5, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_weather_costs_a_push_time_and_nothing_else() {
    let cloud = Cloud::start(&Settings::default());
    let proxy = UdpProxy::new(cloud.node.address(), 11, BAD);
    let (home, remote) = behind(&cloud, &proxy, "owner").await;
    let mut files = large();
    let first = home.snapshot(&files, 1);
    let cold = home.pushed(&remote, None, first).await;
    assert!(cold.bytes_sent > 4_800_000);
    // Each object once, whatever was lost below.
    assert_eq!(cold.objects_sent, 80 + 10 + 1);
    files.get_mut("b1/f1").unwrap()[100] ^= 1;
    let second = home.snapshot(&files, 2);
    let edit = home.pushed(&remote, Some(first), second).await;
    assert_eq!((edit.round_trips, edit.objects_sent), (1, 4));
    assert!(edit.bytes_sent < 1500, "{edit:?}");
    assert!(has(&cloud.vault_of(&home), second));
    assert_bad(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_weather_costs_a_fetch_time_and_nothing_else() {
    let cloud = Cloud::start(&Settings::default());
    let home = cloud.home().await;
    let snapshot = home.snapshot(&large(), 1);
    home.pushed(&cloud.remote(), None, snapshot).await;
    let proxy = UdpProxy::new(cloud.node.address(), 12, BAD);
    let (other, remote) = behind(&cloud, &proxy, "owner").await;
    assert_eq!(other.fetch(&remote, snapshot).await.unwrap(), 80 + 10 + 1);
    assert!(other.has(snapshot));
    assert_bad(&proxy);
}

/// The address of the home changes in the middle, as behind a NAT that forgot it.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_outlives_another_address() {
    let cloud = Cloud::start(&Settings::default());
    let weather = Weather { delay: Duration::from_millis(20), ..Weather::default() };
    let proxy = UdpProxy::new(cloud.node.address(), 3, weather);
    let (home, remote) = behind(&cloud, &proxy, "owner").await;
    let new = home.snapshot(&bulk(4), 1);
    let rebind = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        proxy.rebind();
    };
    let (stats, ()) = tokio::join!(home.pushed(&remote, None, new), rebind);
    assert_eq!(stats.objects_sent, 46);
    assert!(has(&cloud.vault_of(&home), new));
}

/// The network is gone in the middle of a push: that is an error in seconds, and the next push goes on
/// from what had come.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_into_a_hole_fails_and_goes_on_later() {
    let quota = crate::sync::Quota { keep_at: 1024 * 1024, ..crate::sync::Quota::default() };
    let cloud = Cloud::start(&Settings { quota, ..Settings::default() });
    let weather = Weather { delay: Duration::from_millis(30), ..Weather::default() };
    let proxy = UdpProxy::new(cloud.node.address(), 5, weather);
    let (home, remote) = behind(&cloud, &proxy, "owner").await;
    let mut files = bulk(5);
    for seed in 6..12 {
        files.extend(bulk(seed).into_iter().map(|(path, bytes)| (format!("{seed}/{path}"), bytes)));
    }
    let new = home.snapshot(&files, 1);
    let before = proxy.counts().to_server;
    let hole = async {
        // When a good part of the files is on the way.
        while proxy.counts().to_server < before + 4000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        proxy.blackhole(true);
    };
    let (cut, ()) = tokio::join!(home.push(&remote, None, new), hole);
    let cut = cut.unwrap_err();
    assert!(cut.is_retryable(), "{cut}");
    assert_eq!(cloud.head(&home), None);
    // The node knows nothing of it yet: it waits for the rest.
    proxy.blackhole(false);
    home.pool.forget(remote.node).await;
    let stats = home.pushed(&remote, None, new).await;
    assert!(stats.objects_sent < 316 - 20, "{stats:?}");
    assert!(has(&cloud.vault_of(&home), new));
}

/// Shares of packets that are lost, of a thousand.
const LOSSES: [u32; 5] = [10, 50, 100, 200, 300];

/// UDP payload of an MTU of 1,280 bytes over IPv6.
const SMALL: usize = 1280 - 48;

#[expect(clippy::disallowed_methods, reason = "a test has the environment itself")]
fn seeds() -> (Vec<u64>, bool) {
    let read = std::env::var("BATON_SEEDS").ok().map(|text| {
        let (from, to) = text.split_once("..").expect("BATON_SEEDS=FROM..TO");
        (from.parse().unwrap()..to.parse().unwrap()).collect()
    });
    (read.unwrap_or(vec![0, 2, 4]), std::env::var_os("BATON_NIGHTLY").is_some())
}

/// What a seed stands for: each loss with each of the others, and never the same packets.
fn drawn(seed: u64) -> (Weather, bool) {
    let weather = Weather {
        delay: Duration::from_millis([1, 10, 50][(seed / 5 % 3) as usize]),
        jitter: Duration::from_millis(seed % 7),
        loss: LOSSES[(seed % 5) as usize],
        duplicate: if seed.is_multiple_of(3) { 50 } else { 0 },
        corrupt: if seed % 4 < 2 { 10 } else { 0 },
        late: if seed.is_multiple_of(2) { 250 } else { 0 },
        longest: if seed % 3 == 1 { SMALL } else { 0 },
    };
    (weather, seed / 2 % 2 == 1)
}

/// A home that tries again as its queue does: whatever the network does, the push arrives, whole, and
/// comes back from there the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_arrives_whatever_the_network_does_to_its_packets() {
    let (seeds, nightly) = seeds();
    for seed in seeds {
        let (weather, moves) = drawn(seed);
        let cloud = Cloud::start(&Settings::default());
        let proxy = UdpProxy::new(cloud.node.address(), seed, weather);
        let (home, remote) = behind(&cloud, &proxy, "owner").await;
        let mut files = project();
        let bulky = if nightly { 4 } else { u64::from(seed.is_multiple_of(5)) };
        for at in 0..bulky {
            let more = bulk(seed * 10 + at);
            files.extend(more.into_iter().map(|(path, bytes)| (format!("x{at}/{path}"), bytes)));
        }
        let new = home.snapshot(&files, 1);
        let push = async {
            let mut tries = 0;
            loop {
                tries += 1;
                match home.push(&remote, None, new).await {
                    Ok((PushOutcome::Acked { snapshot, .. }, _)) if snapshot == new => break tries,
                    Ok((outcome, _)) => panic!("seed {seed}: {outcome:?}"),
                    Err(error) => {
                        assert!(error.is_retryable() && tries < 50, "seed {seed}: {error}");
                    }
                }
            }
        };
        // Its address changes in the middle, as from one radio to another.
        let wander = async {
            let before = proxy.counts().to_server;
            while moves && proxy.counts().to_server < before + 20 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if moves {
                proxy.rebind();
            }
            std::future::pending::<()>().await;
        };
        let tries = tokio::select! {
            tries = push => tries,
            () = wander => unreachable!("it does not end"),
        };
        assert!(has(&cloud.vault_of(&home), new), "seed {seed}");
        assert_eq!(cloud.head(&home).map(|head| head.snapshot), Some(new), "seed {seed}");
        let counts = proxy.counts();
        tracing::debug!(seed, tries, ?counts, "arrived");
        // A clear way home shows that it is what was sent: a fetch checks every hash.
        proxy.set(Weather::default());
        let other = Home::new();
        join(&other, &cloud.catalog, &remote, "owner", &cloud.clock).await;
        other.fetch(&remote, new).await.unwrap();
        assert!(other.has(new), "seed {seed}");
    }
}
