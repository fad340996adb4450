//! Many homes at one node at once, which is restarted under them: nothing acknowledged is lost, and each
//! gets its turn.

use std::sync::atomic::{AtomicU64, Ordering};

use baton_protocol::message::encode;

use super::client::Raw;
use super::*;
use crate::transport::limits::turns::{OWN, SHARED};

/// Homes, and pushes of each.
const HOMES: u64 = 20;
const PUSHES: u64 = 6;

/// What one home had acknowledged.
struct Acked {
    device: DeviceId,
    snapshots: Vec<SnapshotId>,
}

/// A home that edits and pushes until it has done so often enough, wherever the node is by then.
async fn keeps_pushing(
    home: &Home,
    number: u64,
    place: &Mutex<Remote>,
    total: &AtomicU64,
) -> Acked {
    let mut files = project();
    let (mut base, mut snapshots) = (None, Vec::new());
    for at in 1..=PUSHES {
        files.insert("d0/edit".to_owned(), noise(number * 1000 + at, 3000));
        let new = home.snapshot(&files, at);
        let mut tries = 0;
        loop {
            let remote = place.lock().unwrap().clone();
            match home.push(&remote, base, new).await {
                Ok((PushOutcome::Acked { snapshot, .. }, _)) if snapshot == new => break,
                // It was acknowledged, and the word was lost with the node: a replay says so.
                Ok((outcome, _)) => panic!("home {number}: {outcome:?}"),
                Err(error) => {
                    tries += 1;
                    assert!(error.is_retryable() && tries < 500, "home {number}: {error}");
                    tokio::time::sleep(Duration::from_millis(10 + number * 3)).await;
                }
            }
        }
        snapshots.push(new);
        base = Some(new);
        total.fetch_add(1, Ordering::SeqCst);
    }
    Acked { device: home.device(), snapshots }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_restarted_under_many_homes_loses_nothing_that_it_acknowledged() {
    let mut cloud = Cloud::start(&Settings::default());
    let mut homes = Vec::new();
    for at in 0..HOMES {
        homes.push(cloud.joined(Home::new(), &format!("user{}", at % 4)).await);
    }
    let place = Arc::new(Mutex::new(cloud.remote()));
    let total = Arc::new(AtomicU64::new(0));
    let mut working: Vec<_> = (1..)
        .zip(homes)
        .map(|(number, home)| {
            let (place, total) = (Arc::clone(&place), Arc::clone(&total));
            let tasks = home.tasks.clone();
            tasks.spawn("home", async move { keeps_pushing(&home, number, &place, &total).await })
        })
        .collect();
    // Twice in the middle, with most of them in the middle of something.
    for share in [1, 2] {
        within(async {
            while total.load(Ordering::SeqCst) < HOMES * PUSHES * share / 3 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        cloud = cloud.restart(&Settings::default()).await;
        *place.lock().unwrap() = cloud.remote();
    }
    let mut acked = Vec::new();
    for home in working.drain(..) {
        acked.push(within(home).await.unwrap());
    }
    let cloud = cloud.restart(&Settings::default()).await;
    for Acked { device, snapshots } in acked {
        let row = cloud.catalog.device(device).unwrap().unwrap();
        let vault = cloud.store.vault(row.vault).unwrap();
        assert_eq!(snapshots.len() as u64, PUSHES);
        for snapshot in &snapshots {
            assert!(has(&vault, *snapshot), "acknowledged and lost");
        }
        let head = vault.head(WORKSPACE, device).unwrap();
        assert_eq!((Some(&head.snapshot), head.sequence), (snapshots.last(), PUSHES));
    }
}

/// What they asked for fills their windows, and their sessions wait: a thousand more could do the same.
#[tokio::test(flavor = "multi_thread")]
async fn those_that_read_nothing_keep_nobody_else_from_its_turn() {
    const SLOW: usize = 10;
    const EACH: usize = 20;
    // Nobody's patience makes room.
    let limits = Limits { stall: 5 * WITHIN, ..Limits::default() };
    let cloud = Cloud::start(&Settings { limits, ..Settings::default() });
    let (remote, home) = (cloud.remote(), cloud.home().await);
    let new = home.snapshot(&bulk(1), 1);
    home.pushed(&remote, None, new).await;
    let ids: Vec<_> = plan_push(&home.vault, None, new).unwrap().iter().map(|it| it.id).collect();
    let want = encode(&FetchRequest::Want(ids.into_iter().map(Into::into).collect())).unwrap();
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let other = cloud.home().await;
        let mut streams = Vec::new();
        for _ in 0..EACH {
            let mut raw = Raw::open(&other, &remote, Request::Fetch).await;
            raw.send(&want).await;
            streams.push(raw);
        }
        slow.push((other, streams));
    }
    let all_at_work = async |count: usize| {
        while cloud.node.at_work() != count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // All the places that they share, and two of each of them: the others wait.
    within(all_at_work(SHARED + OWN * SLOW)).await;
    let next = home.snapshot(&project(), 2);
    home.pushed(&remote, Some(new), next).await;
    let other = cloud.home().await;
    other.fetch(&remote, next).await.unwrap();
    assert!(other.has(next));
    // They give up: their places are free, and of those that waited none is left at work.
    drop(slow);
    within(all_at_work(0)).await;
}

/// Each of them alone would fit.
#[tokio::test(flavor = "multi_thread")]
async fn many_pushes_at_once_have_no_more_room_than_one() {
    const MOST: u64 = 4_000_000;
    for most in [Most { user: Some(MOST), device: None }, Most { user: None, device: Some(MOST) }] {
        let cloud = Cloud::start(&Settings { most, ..Settings::default() });
        let (remote, home) = (cloud.remote(), cloud.home().await);
        let snapshots: Vec<_> = (1..=4).map(|at| home.snapshot(&bulk(at), at)).collect();
        let pushes: Vec<_> = snapshots
            .into_iter()
            .map(|new| {
                let plan = plan_push(&home.vault, None, new).unwrap();
                let (pool, remote, vault) = (home.pool.clone(), remote.clone(), home.vault.clone());
                let tasks = home.tasks.clone();
                home.tasks.spawn("push", async move {
                    let mut wire = Wire::new(pool.open(&remote).await.unwrap());
                    let work =
                        move || push::send(&mut wire, &vault, hello(None, new), plan, |_, _| {});
                    tasks.spawn_blocking("push", work).await.unwrap()
                })
            })
            .collect();
        let mut acked = 0;
        for push in pushes {
            match within(push).await.unwrap() {
                Ok((PushOutcome::Acked { .. }, _)) => acked += 1,
                Ok(_) => {}
                Err(SyncError::Refused(refusal)) => {
                    assert_eq!(refusal.code, RefusalCode::Limit, "{}", refusal.message);
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(acked <= 1, "{acked}");
        let kept = cloud.vault_of(&home).bytes().unwrap();
        assert!(kept <= MOST, "{kept}");
    }
}
