//! Files that are read as a whole: the store's database, and a backup in etcd's format.
//!
//! Both come from outside now and then: from a disk that has aged, from somebody else's etcd. A
//! damaged one must end in an error or in what can still be vouched for, never in a panic, and
//! never in work or memory that its size does not explain.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use store::command::{Command, DeleteRange, KeyRange, LeaseId, Put, Revision};
use store::engine::{Engine, EngineConfig, Identity, Inspection, Storage, inspect_image};
use store::image::{self, Export, Image, Options, ReadError};
use store::wal::VolatileDisk;

use crate::Random;

/// What the undamaged files are.
struct Sound {
    database: Vec<u8>,
    inspection: Inspection,
    backup: Vec<u8>,
}

/// A small store with a bit of everything, as both kinds of file. Made once: each seed damages it
/// in its own way.
fn sound() -> &'static Sound {
    static SOUND: OnceLock<Sound> = OnceLock::new();
    SOUND.get_or_init(|| {
        let disk = Arc::new(VolatileDisk::default());
        let config = EngineConfig::new(Storage::Disk(disk.clone()), Identity::default());
        let mut engine = Engine::open(config).expect("a new store opens");
        let lease = LeaseId(7);
        let mut commands = vec![Command::LeaseGrant { id: lease, ttl: 60 }];
        for n in 0_usize..300 {
            let key = Bytes::from(format!("key/{:02}", n % 70));
            let value = Bytes::from(vec![b'v'; n % 7 * 120]);
            commands.push(if n % 9 == 8 {
                Command::Delete(DeleteRange { range: KeyRange::Key(key), prev_kv: false })
            } else {
                Command::Put(Put { key, value, lease, ..Put::default() })
            });
        }
        commands.push(Command::Compact(Revision(40)));
        for (command, index) in commands.into_iter().zip(1..) {
            engine.apply(index, None, &[command]).expect("memory does not fail");
        }
        engine.checkpoint().expect("memory does not fail");
        let export = Export::measure(engine.reader().moment()).expect("memory does not fail");
        let mut backup = Vec::new();
        let digest = export.write(&mut backup).expect("memory does not fail");
        backup.extend_from_slice(&digest);
        engine.close().expect("memory does not fail");
        let database = read(&disk, "state.redb");
        let inspection = inspect_image(&database).expect("a sound database");
        Sound { database, inspection, backup }
    })
}

fn read(disk: &VolatileDisk, name: &str) -> Vec<u8> {
    use store::wal::Disk;
    let file = disk.open(name).expect("the engine's file");
    let length = usize::try_from(file.size().expect("memory does not fail")).expect("small");
    let mut bytes = vec![0; length];
    let read = file.read_at(0, &mut bytes).expect("memory does not fail");
    assert_eq!(read, length, "the file is read whole");
    bytes
}

/// Damages a file in one to three places: bits, blocks, its end, or pieces in the wrong place.
fn damage(file: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        if file.len() < 1024 {
            return;
        }
        let block = random.below(file.len() / 512) * 512;
        match random.below(6) {
            0 => file.truncate(random.below(file.len())),
            1 => file[block..][..512].fill(0),
            2 => {
                let from = random.below(file.len() / 512) * 512;
                file.copy_within(from..from + 512, block);
            }
            // The first pages say where everything is.
            3 => {
                let head = file.len().min(16 << 10);
                file[random.below(head)] ^= 1 << random.below(8);
            }
            4 => {
                // A number that is far too large, where one may stand.
                let at = block + random.below(64) * 8;
                file[at..at + 8].fill(0xFF);
            }
            _ => {
                let at = random.below(file.len());
                file[at] ^= 1 << random.below(8);
            }
        }
    }
}

/// A database with damage: an error, or a state that the store was in.
pub fn seed_database(seed: u64) {
    let sound = sound();
    let mut random = Random::new(seed);
    let mut file = sound.database.clone();
    damage(&mut file, &mut random);
    if let Ok(found) = inspect_image(&file) {
        assert!(found.revision <= sound.inspection.revision, "seed {seed}: {found:?}");
    }
}

/// A backup with damage: its digest does not hold, and whoever reads it all the same gets errors
/// at worst.
pub fn seed_backup(seed: u64) {
    let sound = sound();
    let mut random = Random::new(seed);
    let mut file = sound.backup.clone();
    damage(&mut file, &mut random);
    if file != sound.backup
        && let Ok(image) = Image::open(&file[..])
    {
        assert!(image::check_digest(&image).is_err(), "seed {seed}: the damage is not noticed");
    }
    bytes(&file);
}

/// Anything at all, read as a backup.
pub fn bytes(file: &[u8]) {
    let Ok(image) = Image::open(file) else { return };
    let _ = image.check(&mut |_| Ok::<(), ReadError>(()));
    let _ = image::status(&image);
    let _ = image::hash_kv(&image, 0);
    let to = Storage::Memory;
    let _ = image::import(&image, to, Identity::default(), Options::default(), &mut |_| {});
}
