//! Who writes, and in which order: the thread and the callers that write for themselves.

use super::memory::{Fault as DiskFault, MemoryDisk};
use super::{Config, Entry, Fault, LogId, Record, Wal};
use bytes::Bytes;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

const CONFIG: Config = Config { segment_bytes: 64 << 10, cluster: 1, node: 2, salt: 9 };

fn entry(index: u64) -> Record {
    let body = Bytes::from(index.to_le_bytes().to_vec());
    Record::Entry(Entry { id: LogId { term: 1, index }, tag: 1, body })
}

fn open(disk: &MemoryDisk) -> Wal {
    Wal::open(Arc::new(disk.clone()), CONFIG).expect("a sound disk")
}

/// Writes here until the log's thread has gone to sleep, as it does soon after each start.
fn write_here_by_myself(wal: &Wal, next: &mut u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let (sender, receiver) = mpsc::channel();
        let done = move |outcome: Result<(), Fault>| {
            outcome.expect("a healthy disk");
            sender.send(thread::current().id()).expect("somebody listens");
        };
        wal.write_here(vec![entry(*next)], Box::new(done));
        *next += 1;
        if receiver.recv().expect("is called") == thread::current().id() {
            return;
        }
        assert!(Instant::now() < deadline, "the log's thread never sleeps");
    }
}

/// Goal: a caller writes by itself when the thread sleeps, and what it was told is durable is.
#[test]
fn a_lone_caller_writes_by_itself() {
    let disk = MemoryDisk::new(3);
    let wal = open(&disk);
    let mut next = 0;
    for _ in 0..100 {
        write_here_by_myself(&wal, &mut next);
        assert_eq!(wal.completed(), next, "counted when it is done");
    }
    let found = open(&disk.power_cut());
    assert_eq!(found.state().last, Some(LogId { term: 1, index: next - 1 }));
}

/// Goal: however writes here and submissions race, records reach the disk in the order of their
/// numbers. Method: two threads take turns under a lock, so that the order is known; the log itself
/// refuses an index out of order.
#[test]
fn both_ways_keep_one_order() {
    let disk = MemoryDisk::new(4);
    let wal = open(&disk);
    let next = Arc::new(std::sync::Mutex::new(0));
    let threads: Vec<_> = (0..4)
        .map(|nth| {
            let (wal, next) = (wal.clone(), next.clone());
            thread::spawn(move || {
                for _ in 0..500 {
                    let (sender, receiver) = mpsc::channel();
                    let done = Box::new(move |outcome| drop(sender.send(outcome)));
                    let mut next = next.lock().expect("nobody panics");
                    let record = vec![entry(*next)];
                    *next += 1;
                    if nth % 2 == 0 {
                        wal.write_here(record, done);
                    } else {
                        wal.submit(record, Some(done));
                    }
                    drop(next);
                    receiver.recv().expect("is called").expect("in order, on a healthy disk");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("nobody panics"));
    assert_eq!(wal.completed(), 2_000);
    let found = open(&disk.power_cut());
    assert_eq!(found.state().last, Some(LogId { term: 1, index: 1_999 }));
    assert_eq!(found.read(0, 2_000, usize::MAX).expect("sound").len(), 2_000);
}

/// Goal: a disk that fails under a write here fails the log for everybody, for good.
#[test]
fn a_failure_here_is_final_everywhere() {
    let disk = MemoryDisk::new(5);
    let wal = open(&disk);
    let mut next = 0;
    write_here_by_myself(&wal, &mut next);
    disk.fail_after(0, DiskFault::Io);
    let (sender, receiver) = mpsc::channel();
    wal.write_here(vec![entry(next)], Box::new(move |outcome| drop(sender.send(outcome))));
    assert!(receiver.recv().expect("is called").is_err());
    assert!(wal.submit_wait(vec![entry(next)]).is_err());
    let (sender, receiver) = mpsc::channel();
    wal.write_here(vec![entry(next)], Box::new(move |outcome| drop(sender.send(outcome))));
    assert!(receiver.recv().expect("is called").is_err());
    assert_eq!(wal.completed(), next, "nothing more became durable");
}
