//! Many homes at one node at once, which is restarted under them: nothing acknowledged is lost, and each
//! gets its turn.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

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
