//! Random sessions against our store and a real etcd: every answer, error and event compared.
//!
//! The peer is etcd 3.7 where Go was there to build it, else Debian's 3.4, with what that release
//! does not know or says otherwise taken out.
//!
//! The seeds are fixed, so a failure here fails everywhere, and the report names the shortest
//! session that shows the difference. `DIFFERENTIAL_SESSIONS` and `DIFFERENTIAL_SEED` ask for
//! more, or for others:
//!
//! ```sh
//! DIFFERENTIAL_SEED=1000 DIFFERENTIAL_SESSIONS=500 cargo test -p tests differential
//! ```

use tests::differential::{self, Peer, Release};
use tests::server::Program;
use tests::tools;

/// Steps of one session: enough for some compactions and a few hundred watchers.
const TURNS: usize = 4000;
/// 100,000 steps in all.
const SESSIONS: u64 = 25;
/// Sessions at a time: a server waits much and works little.
const AT_ONCE: usize = 3;

/// Sessions played to shorten one that shows a difference.
const TRIES: u64 = 60;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What `TESTS_PEER` names; else the newest etcd there is.
fn peer() -> Option<Peer> {
    let releases = [("etcd-3.7", Release::V3_7), ("etcd-3.4", Release::V3_4)];
    let wanted = std::env::var("TESTS_PEER").ok();
    let fits = |name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
    releases.into_iter().filter(|(name, _)| fits(name)).find_map(|(name, release)| {
        Some(Peer { program: Program::Peer(tools::theirs(name)?), release })
    })
}

#[test]
fn differential() {
    let Some(peer) = peer() else {
        tests::skip("differential", "needs etcd 3.7 or 3.4");
        return;
    };
    let first = number("DIFFERENTIAL_SEED", 0);
    let seeds = first..first + number("DIFFERENTIAL_SESSIONS", SESSIONS);
    let turns =
        usize::try_from(number("DIFFERENTIAL_TURNS", TURNS as u64)).expect("a small number");
    let tries = usize::try_from(number("DIFFERENTIAL_TRIES", TRIES)).expect("a small number");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be built");
    let failures = runtime.block_on(async {
        let room = std::sync::Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
        let sessions: Vec<_> = seeds
            .map(|seed| {
                let (room, peer) = (room.clone(), peer.clone());
                tokio::spawn(async move {
                    let _place = room.acquire().await.expect("never closed");
                    differential::check(seed, turns, peer, tries).await
                })
            })
            .collect();
        let mut failures = Vec::new();
        for session in sessions {
            if let Err(report) = session.await.expect("a session does not panic") {
                eprintln!("{report}\n");
                failures.push(report);
            }
        }
        failures
    });
    assert!(failures.is_empty(), "{} sessions differ:\n{}", failures.len(), failures.join("\n\n"));
}
