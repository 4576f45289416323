//! Out and in again: what a store holds survives its image, whatever the history, and a damaged
//! image is refused or read, never believed and never fatal.

use bytes::Bytes;

use super::{Export, Image, ImportError, Options, ReadError, Source, hash_kv, import, status};
use crate::{
    command::{
        Alarm, AlarmKind, Command, DeleteRange, KeyRange, LeaseId, MemberId, Op, Put, RangeQuery,
        Revision, Txn,
    },
    engine::{Budget, Engine, EngineConfig, Identity, Storage},
};

/// The same numbers from the same seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % bound as u64)
            .expect("below a usize")
    }
}

struct Store {
    engine: Engine,
    index: u64,
}

impl Store {
    fn new() -> Self {
        let identity = Identity { cluster: 1, member: 2 };
        let engine = Engine::open(EngineConfig::new(Storage::memory(), identity));
        Self { engine: engine.expect("a new store opens"), index: 0 }
    }

    fn apply(&mut self, command: Command) {
        self.index += 1;
        self.engine.apply(self.index, None, &[command]).expect("memory does not fail");
    }

    fn revision(&self) -> i64 {
        self.engine.reader().view().revision().0
    }

    /// Anything that changes something.
    fn step(&mut self, random: &mut Random) {
        let key = |random: &mut Random| Bytes::from(format!("key/{:02}", random.below(24)));
        let put = |random: &mut Random, lease: i64| Put {
            key: key(random),
            value: Bytes::from(vec![b'v'; random.below(900) * (random.below(8) + 1)]),
            lease: LeaseId(lease),
            ..Put::default()
        };
        let command = match random.below(12) {
            0 => Command::LeaseGrant { id: LeaseId(random.below(6) as i64 - 3), ttl: 60 },
            1 => Command::LeaseRevoke(LeaseId(random.below(6) as i64 - 3)),
            2 => Command::Delete(DeleteRange { range: KeyRange::Key(key(random)), prev_kv: false }),
            3 => {
                let (from, to) = (key(random), key(random));
                Command::Delete(DeleteRange { range: KeyRange::Span(from, to), prev_kv: false })
            }
            4 => {
                let success = (0..3).map(|_| Op::Put(put(random, 0))).collect();
                Command::Txn(Txn { success, ..Txn::default() })
            }
            5 if random.below(6) == 0 => {
                let back = random.below(30) as i64;
                Command::Compact(Revision((self.revision() - back).max(1)))
            }
            6 => {
                let lease = random.below(6) as i64 - 3;
                Command::Put(put(random, lease))
            }
            _ => Command::Put(put(random, 0)),
        };
        self.apply(command);
    }

    fn image(&self) -> Vec<u8> {
        let export = Export::measure(self.engine.reader().moment()).expect("memory does not fail");
        let mut file = Vec::new();
        let digest = export.write(&mut file).expect("memory does not fail");
        assert_eq!(file.len() as u64, export.bytes(), "clients were told the length");
        assert_eq!(file.len() % 512, 0, "the digest is told by the rest");
        file.extend_from_slice(&digest);
        file
    }
}

/// Everything a client could ask.
fn contents(engine: &Engine) -> Vec<String> {
    let reader = engine.reader();
    let view = reader.view();
    let (revision, compacted) = (view.revision().0, view.compacted().0);
    let mut contents = vec![format!("{revision} {compacted} {:?}", view.alarms())];
    for lease in reader.leases() {
        contents.push(format!("{lease:?} {:?}", reader.lease(lease.0).map(|lease| lease.keys)));
    }
    for at in (compacted.max(1)..=revision).rev().step_by(7) {
        let query = RangeQuery { revision: Revision(at), ..RangeQuery::new(KeyRange::all()) };
        contents.push(format!("{at} {:?}", view.range(&query).map(|found| found.kvs)));
        contents.push(format!("{at} {:?}", view.hash_kv(Revision(at))));
    }
    let budget = Budget { revisions: usize::MAX >> 1, bytes: usize::MAX >> 1 };
    let history = view.history(Revision(compacted.max(1)).next(), budget);
    contents.push(format!("{:?}", history.map(|history| history.revised)));
    let sizes = view.sizes();
    contents.push(format!("{} {}", sizes.retained, sizes.live));
    contents
}

fn loaded(file: &[u8], options: Options) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let identity = Identity { cluster: 1, member: 2 };
    let image = Image::open(file).expect("our own files can be read");
    super::check_digest(&image).expect("our own digest holds");
    let storage = Storage::Directory(dir.path().join("db"));
    import(&image, storage, identity, options, &mut |_| {}).expect("our own files can be loaded");
    let storage = Storage::Directory(dir.path().join("db"));
    let engine = Engine::open(EngineConfig::new(storage, identity)).expect("it is a store");
    (dir, Store { engine, index: 0 })
}

#[test]
fn any_history_survives_and_goes_on_alike() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let mut store = Store::new();
        for _ in 0..random.below(250) {
            store.step(&mut random);
        }
        if seed % 3 == 0 {
            // Some of it written out, some of that compacted for good.
            store.engine.checkpoint().expect("memory does not fail");
        }
        store.apply(Command::RaiseAlarm(Alarm { member: MemberId(9), kind: AlarmKind::Corrupt }));
        let file = store.image();
        let image = Image::open(&file[..]).expect("our own files can be read");
        let revision = store.revision();
        let digest = store.engine.reader().view().hash_kv(Revision(0)).expect("now is retained");
        let found = hash_kv(&image, 0).expect("our own files can be read");
        assert_eq!((found.hash, found.revision), (digest.hash, revision), "seed {seed}");
        let (_dir, mut twin) = loaded(&file, Options::default());
        assert_eq!(contents(&twin.engine), contents(&store.engine), "seed {seed}");

        let clear = Command::ClearAlarm(Alarm { member: MemberId(9), kind: AlarmKind::Corrupt });
        store.apply(clear.clone());
        twin.apply(clear);
        let (mut one, mut other) = (Random::new(seed + 100), Random::new(seed + 100));
        for _ in 0..60 {
            store.step(&mut one);
            twin.step(&mut other);
        }
        twin.engine.checkpoint().expect("a temporary disk does not fail");
        assert_eq!(contents(&twin.engine), contents(&store.engine), "seed {seed}, later");
    }
}

#[test]
fn an_empty_store_survives() {
    let file = Store::new().image();
    let (_dir, twin) = loaded(&file, Options::default());
    assert_eq!(twin.revision(), 1);
    let status = status(&Image::open(&file[..]).expect("sound")).expect("sound");
    assert_eq!((status.total_keys, status.revision), (0, 0));
}

#[test]
fn a_raised_revision_forgets_all_before() {
    let mut random = Random::new(7);
    let mut store = Store::new();
    for _ in 0..100 {
        store.step(&mut random);
    }
    let (_dir, twin) = loaded(&store.image(), Options { bump_revision: 1000 });
    let (before, now) = (store.engine.reader().view(), twin.engine.reader().view());
    assert_eq!(now.revision().0, before.revision().0 + 1000);
    assert_eq!(now.compacted(), now.revision());
    let all = |view: &crate::engine::View| {
        view.range(&RangeQuery::new(KeyRange::all())).expect("now is retained").kvs
    };
    assert_eq!(all(&now), all(&before));
    assert_eq!(now.sizes().retained, now.sizes().live, "nothing but the newest state is kept");
}

/// Enough leaves for two levels of branches above them, in a tree whose keys lie in order.
#[test]
fn trees_of_many_pages_are_read_in_order() {
    use super::page::PAGE;
    let mut store = Store::new();
    for nth in 0..400 {
        let put = Put {
            key: Bytes::from(format!("{nth:04}")),
            value: Bytes::from(vec![b'v'; PAGE - 100]),
            ..Put::default()
        };
        store.apply(Command::Put(put));
    }
    let file = store.image();
    let image = Image::open(&file[..]).expect("sound");
    let mut revisions = Vec::new();
    image
        .check(&mut |entry| {
            if entry.path.len() == 1 && entry.path[0] == b"key" {
                revisions.push(entry.key.to_vec());
            }
            Ok::<(), ReadError>(())
        })
        .expect("sound");
    assert_eq!(revisions.len(), 400);
    assert!(revisions.is_sorted());
}

/// Bytes that count what is read, so that a hostile length shows.
struct Counted<'a> {
    bytes: &'a [u8],
    read: std::cell::Cell<usize>,
}

impl Source for Counted<'_> {
    fn size(&self) -> std::io::Result<u64> {
        self.bytes.size()
    }

    fn fill(&self, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        self.read.set(self.read.get() + into.len());
        self.bytes.fill(offset, into)
    }
}

/// A damaged file is refused, or what is damaged is a value or unused space; nothing panics, and no
/// page is read more than a few times.
#[test]
fn damage_is_refused_or_harmless() {
    let mut random = Random::new(3);
    let mut store = Store::new();
    for _ in 0..300 {
        store.step(&mut random);
    }
    let sound = store.image();
    let mut refused = 0;
    for seed in 0..600 {
        let mut random = Random::new(seed);
        let mut file = sound.clone();
        match random.below(4) {
            0 => file.truncate(random.below(sound.len())),
            1 => {
                // Headers and elements, where lengths and links are.
                let page = random.below(sound.len() / 4096) * 4096;
                let at = page + random.below(120);
                let change = u8::try_from(1 + random.below(255)).expect("a byte");
                file[at] = file[at].wrapping_add(change);
            }
            2 => {
                let at = random.below(sound.len());
                file[at] ^= 1 << random.below(8);
            }
            _ => {
                // A page in place of another one.
                let pages = sound.len() / 4096;
                let (from, to) = (random.below(pages) * 4096, random.below(pages) * 4096);
                file.copy_within(from..from + 4096, to);
            }
        }
        let counted = Counted { bytes: &file, read: 0.into() };
        let Ok(image) = Image::open(counted) else {
            refused += 1;
            continue;
        };
        let checked = image.check(&mut |_| Ok::<(), ReadError>(()));
        refused += usize::from(checked.is_err());
        drop(status(&image));
        drop(hash_kv(&image, 0));
        // The digest catches what the structure does not.
        assert!(file == sound || super::check_digest(&image).is_err(), "seed {seed}");
        let identity = Identity { cluster: 1, member: 2 };
        let none = Options::default();
        let loaded = import(&image, Storage::memory(), identity, none, &mut |_| {});
        assert!(!matches!(loaded, Err(ImportError::Store(_))), "seed {seed}: {loaded:?}");
        let source = image.into_source();
        assert!(source.read.get() < 24 * sound.len(), "seed {seed} read {:?}", source.read);
    }
    assert!(refused > 200, "{refused} of 600 noticed without the digest");
}
