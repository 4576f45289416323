//! The sub-commands of `store`, on real data directories, beside the tools they replace.
//!
//! Goal: whoever has etcd's data comes in without loss, whoever has ours gets out, and nobody
//! loses anything to a tool by accident: a directory in use is refused, a damaged log is cut only
//! when that is asked for.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output};

use nix::sys::signal::Signal;
use tests::server::{Program, Server};
use tests::tools;
use tests::world::text;

use super::snapshot::{Tools, contents, fill, good, json, path, run};

fn store(args: &[&str]) -> Command {
    let mut command = Command::new(tools::ours("store"));
    command.args(args);
    command
}

/// Runs one of ours that must fail, and gives its exit code and what it said.
fn refused(args: &[&str]) -> (i32, String) {
    let output = run(&mut store(args));
    (output.status.code().expect("it ends by itself"), text(&output))
}

fn revision(tools: &Tools, server: &Server) -> i64 {
    let status = json(&tools.ctl(server, &["endpoint", "status", "-w", "json"]));
    status[0]["Status"]["header"]["revision"].as_i64().expect("a number")
}

fn ids(tools: &Tools, server: &Server) -> (String, String) {
    let status = json(&tools.ctl(server, &["endpoint", "status", "-w", "json"]));
    let header = &status[0]["Status"]["header"];
    (header["cluster_id"].to_string(), header["member_id"].to_string())
}

#[test]
fn our_restore_serves_what_the_backup_holds() {
    let test = "offline::our_restore_serves_what_the_backup_holds";
    let Some(tools) = Tools::find(test) else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let ours = Server::start(Program::Ours, &dir.path().join("ours"), &[]);
    let leases = fill(&tools, &ours);
    let file = dir.path().join("backup.db");
    tools.ctl(&ours, &["snapshot", "save", path(&file)]);
    let new = dir.path().join("new");
    good(&mut store(&["snapshot", "restore", path(&file), "--data-dir", path(&new)]));
    let restored = Server::start(Program::Ours, &new, &[]);
    let now = revision(&tools, &ours);
    assert_eq!(contents(&tools, &restored, now, &leases), contents(&tools, &ours, now, &leases));
    // It is no data directory to restore into any more, and in use.
    let (code, said) = refused(&["snapshot", "restore", path(&file), "--data-dir", path(&new)]);
    assert!(code == 1 && said.contains("not empty or could not be read"), "{said}");
    let (code, said) = refused(&["verify", "--timeout=100ms", "--data-dir", path(&new)]);
    assert!(code == 1 && said.contains("is in use by another process; stop the server"), "{said}");

    // A raised revision forgets the history, and clients never see a revision twice.
    let raised = dir.path().join("raised");
    let bump = ["--bump-revision", "1000", "--mark-compacted"];
    let args = [&["snapshot", "restore", path(&file), "--data-dir", path(&raised)][..], &bump];
    good(&mut store(&args.concat()));
    let raised = Server::start(Program::Ours, &raised, &[]);
    assert_eq!(revision(&tools, &raised), now + 1000);
    let all = |server: &Server| json(&tools.ctl(server, &["get", "--prefix", "", "-w", "json"]));
    assert_eq!(all(&raised)["kvs"], all(&ours)["kvs"]);
}

/// The same words, numbers and exit codes as the other tool's, on the same files.
#[test]
fn status_and_hashkv_say_what_etcdutl_says() {
    let Some(tools) = Tools::find("offline::status_and_hashkv_say_what_etcdutl_says") else {
        return;
    };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let mut files = Vec::new();
    for (program, name) in [(Program::Ours, "ours"), (Program::Peer(tools.etcd.clone()), "theirs")]
    {
        let server = Server::start(program, &dir.path().join(name), &[]);
        fill(&tools, &server);
        let file = dir.path().join(format!("{name}.db"));
        tools.ctl(&server, &["snapshot", "save", path(&file)]);
        files.push(file);
    }
    files.push(dir.path().join("missing.db"));
    let said = |output: &Output| {
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for file in &files {
        for format in ["simple", "json", "fields", "table", "protobuf", "nonsense"] {
            if format == "nonsense" && !file.exists() {
                // Two mistakes at once; which is told first is nobody's business.
                continue;
            }
            let args = ["snapshot", "status", path(file), "-w", format];
            let theirs = run(Command::new(&tools.etcdutl).args(args));
            assert_eq!(said(&run(&mut store(&args))), said(&theirs), "{args:?}");
        }
    }
    // The other tool writes into the file that it hashes, so this comes last.
    for file in &files[..2] {
        for format in ["simple", "json", "fields", "table"] {
            let args = ["hashkv", path(file), "-w", format];
            let ours = run(&mut store(&args));
            let theirs = run(Command::new(&tools.etcdutl).args(args));
            assert_eq!(said(&ours), said(&theirs), "{args:?}");
        }
    }
    for args in [
        &["snapshot", "status"][..],
        &["snapshot", "restore"],
        &["snapshot", "restore", "x.db", "--mark-compacted"],
        &["snapshot", "restore", "x.db", "--nonsense"],
        &["snapshot", "restore", path(&files[2]), "--data-dir", path(&dir.path().join("no"))],
        &["hashkv"],
        &["defrag"],
    ] {
        let theirs = run(Command::new(&tools.etcdutl).args(args));
        assert_eq!(run(&mut store(args)).status.code(), theirs.status.code(), "{args:?}");
    }
}

#[test]
fn etcds_data_directory_is_taken_over() {
    let Some(tools) = Tools::find("offline::etcds_data_directory_is_taken_over") else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let theirs = dir.path().join("theirs");
    let mut etcd = Server::start(Program::Peer(tools.etcd.clone()), &theirs, &[]);
    let leases = fill(&tools, &etcd);
    let now = revision(&tools, &etcd);
    let (expected, who) = (contents(&tools, &etcd, now, &leases), ids(&tools, &etcd));
    let new = dir.path().join("new");
    let import = ["import", "--timeout=100ms", path(&theirs), "--data-dir", path(&new)];
    let (code, said) = refused(&import);
    assert!(code == 1 && said.contains("in use by another process"), "{said}");
    etcd.process.stop();
    good(&mut store(&import));
    let ours = Server::start(Program::Ours, &new, &[]);
    assert_eq!(contents(&tools, &ours, now, &leases), expected);
    assert_eq!(ids(&tools, &ours), who, "clients go on with the cluster they know");
    drop(ours);

    // Killed, its database lacks what its log holds, and only etcd can apply that.
    let again = dir.path().join("again");
    let import = ["import", path(&theirs), "--data-dir", path(&again)];
    let told = (0..5).find_map(|_| {
        etcd.restart();
        tools.ctl(&etcd, &["put", "last", "words"]);
        etcd.process.kill();
        let (code, said) = refused(&import);
        let _ = fs::remove_dir_all(&again);
        (code != 0).then_some((code, said))
    });
    let (code, said) = told.expect("its database commits ten times a second at most");
    assert!(code == 1 && said.contains("etcdctl snapshot save"), "{said}");
    assert!(!again.exists(), "a refused import leaves nothing behind");
}

#[test]
fn a_server_that_starts_on_etcds_data_goes_on_with_them() {
    let test = "offline::a_server_that_starts_on_etcds_data_goes_on_with_them";
    let Some(tools) = Tools::find(test) else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let data = dir.path().join("data");
    let mut etcd = Server::start(Program::Peer(tools.etcd.clone()), &data, &[]);
    let leases = fill(&tools, &etcd);
    let now = revision(&tools, &etcd);
    let (expected, who) = (contents(&tools, &etcd, now, &leases), ids(&tools, &etcd));
    let backup = dir.path().join("backup");
    tools.ctl(&etcd, &["snapshot", "save", path(&backup)]);
    etcd.process.stop();
    // Its log is where ours will be, and would say already that it is ready.
    fs::remove_file(data.with_extension("log")).expect("etcd has a log");
    let mut ours = Server::start(Program::Ours, &data, &[]);
    assert_eq!(contents(&tools, &ours, now, &leases), expected);
    assert_eq!(ids(&tools, &ours), who);
    tools.ctl(&ours, &["put", "only", "ours"]);
    ours.process.kill();
    ours.restart();
    assert_eq!(tools.ctl(&ours, &["get", "only"]), "only\nours\n", "taken over once, not again");
    ours.process.stop();
    etcd.restart();
    assert_eq!(contents(&tools, &etcd, now, &leases), expected, "etcd's files are as they were");
    etcd.process.kill();

    // What `etcdutl` makes of a backup is such a directory too.
    let restored = dir.path().join("restored");
    let restore = ["snapshot", "restore", path(&backup), "--data-dir", path(&restored)];
    let bump = ["--bump-revision", "1000", "--mark-compacted"];
    good(Command::new(&tools.etcdutl).args(restore).args(bump));
    let ours = Server::start(Program::Ours, &restored, &[]);
    assert_eq!(revision(&tools, &ours), now + 1000);
}

#[test]
fn a_stopped_directory_is_exported_verified_and_shrunk() {
    let test = "offline::a_stopped_directory_is_exported_verified_and_shrunk";
    let Some(tools) = Tools::find(test) else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let data = dir.path().join("data");
    let mut ours = Server::start(Program::Ours, &data, &[]);
    let leases = fill(&tools, &ours);
    let now = revision(&tools, &ours);
    let expected = contents(&tools, &ours, now, &leases);
    // What is in the log only is part of it.
    ours.process.kill();
    let (data, file) = (path(&data), dir.path().join("export.db"));
    let verified = good(&mut store(&["verify", "--data-dir", data]));
    assert!(verified.contains("everything adds up"), "{verified}");
    good(&mut store(&["export", path(&file), "--data-dir", data]));
    let hash = |target: &str| json(&good(&mut store(&["hashkv", target, "-w", "json"])));
    assert_eq!(hash(data), hash(path(&file)));
    good(&mut store(&["defrag", "--data-dir", data]));
    assert!(good(&mut store(&["verify", "--data-dir", data])).contains("everything adds up"));
    let meta = good(&mut store(&["dump-db", "--data-dir", data]));
    assert!(meta.contains("revision "), "{meta}");
    let log = good(&mut store(&["dump-log", "--data-dir", data]));
    assert!(log.contains("the end"), "{log}");
    let keys = good(&mut store(&["dump-db", path(&file), "--table", "members"]));
    assert!(keys.contains("8e9e05c52164694d"), "{keys}");

    ours.restart();
    assert_eq!(contents(&tools, &ours, now, &leases), expected);
    let restored = dir.path().join("restored");
    tools.utl(&["snapshot", "restore", path(&file), "--data-dir", path(&restored)]);
    let theirs = Server::start(Program::Peer(tools.etcd.clone()), &restored, &[]);
    assert_eq!(contents(&tools, &theirs, now, &leases), expected);
}

/// Where entries are, by segment and offset, as `dump-log` prints them.
fn entries(data: &str) -> Vec<(std::path::PathBuf, u64)> {
    let log = good(&mut store(&["dump-log", "--data-dir", data]));
    let (mut segment, mut found) = (0_u64, Vec::new());
    for line in log.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("segment"), Some(number)) => segment = number.parse().expect("a number"),
            (Some(offset), Some("entry")) => {
                let file = Path::new(data).join(format!("member/wal/{segment:016x}.wal"));
                found.push((file, offset.parse().expect("a number")));
            }
            _ => {}
        }
    }
    found
}

/// Flips a bit in an entry.
fn damage((segment, place): &(std::path::PathBuf, u64)) {
    let file = File::options().read(true).write(true).open(segment).expect("it opens");
    let mut byte = [0];
    let at = place + 45;
    file.read_exact_at(&mut byte, at).expect("it can be read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("it can be written");
}

/// Goal: damage in a part of the log that a checkpoint has made needless costs nothing but what was
/// written after the checkpoint, and `--cut` gives a log that begins at the checkpoint: one that
/// ended before its database would be refused. Method: a compaction that is to be physical makes the
/// checkpoint; an entry in front of it is damaged, once with nothing after it and once with some
/// writes.
#[test]
fn a_log_damaged_before_a_checkpoint_begins_anew_there() {
    let test = "offline::a_log_damaged_before_a_checkpoint_begins_anew_there";
    let Some(tools) = Tools::find(test) else { return };
    for later in [0, 3] {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let folder = dir.path().join("data");
        let data = path(&folder);
        let mut ours = Server::start(Program::Ours, &folder, &[]);
        let put = |ours: &Server, nth| tools.ctl(ours, &["put", &format!("key{nth:02}"), "value"]);
        (0..12).for_each(|nth| drop(put(&ours, nth)));
        tools.ctl(&ours, &["compact", "--physical", "13"]);
        (12..12 + later).for_each(|nth| drop(put(&ours, nth)));
        ours.process.kill();
        let verified = good(&mut store(&["verify", "--data-dir", data]));
        assert!(verified.contains(", compacted 13, log entry"), "{verified}");
        let places = entries(data);
        damage(&places[places.len() / 3]);
        let (code, said) = refused(&["repair", "--data-dir", data]);
        assert!(code == 1 && said.contains("nothing was changed"), "{said}");
        let said = good(&mut store(&["repair", "--cut", "--data-dir", data]));
        assert!(said.contains("the log begins anew at the database's checkpoint"), "{said}");
        // A checkpoint by age may have been quicker than the kill.
        let all = said.contains("cutting would lose nothing that can be seen");
        assert!(all || later > 0, "{said}");
        assert!(all || said.contains("cutting loses every write after entry"), "{said}");
        assert!(good(&mut store(&["verify", "--data-dir", data])).contains("everything adds up"));

        ours.restart();
        let keys =
            json(&tools.ctl(&ours, &["get", "--prefix", "key", "--keys-only", "-w", "json"]));
        let left = keys["kvs"].as_array().expect("keys are left").len();
        assert_eq!(left, if all { 12 + later } else { 12 }, "{said}");
        assert_eq!(revision(&tools, &ours), i64::try_from(left).expect("few") + 1, "{said}");
        // What is written now is there after a crash: the new log is whole.
        tools.ctl(&ours, &["put", "after", "all"]);
        ours.process.kill();
        ours.restart();
        assert_eq!(tools.ctl(&ours, &["get", "after"]), "after\nall\n");
        ours.process.stop();
    }
}

#[test]
fn a_damaged_log_is_cut_only_on_demand() {
    let Some(tools) = Tools::find("offline::a_damaged_log_is_cut_only_on_demand") else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let data = dir.path().join("data");
    let mut ours = Server::start(Program::Ours, &data, &[]);
    for nth in 0..12 {
        tools.ctl(&ours, &["put", &format!("key{nth:02}"), "value"]);
    }
    ours.process.kill();
    let wal = data.join("member/wal");
    let data = path(&data);
    let sound = good(&mut store(&["repair", "--data-dir", data]));
    assert!(sound.contains("not damaged"), "{sound}");
    let verified = good(&mut store(&["verify", "--data-dir", data]));
    assert!(verified.contains(", compacted nothing, log entry"), "{verified}");

    // In the third entry from the end, which later writes prove to have been durable.
    let places = entries(data);
    let third = &places[places.len() - 3];
    damage(third);
    let segment = third.0.clone();

    let (code, said) = refused(&["verify", "--data-dir", data]);
    assert!(code == 1 && said.contains("the log is damaged"), "{said}");
    let before = fs::read(&segment).expect("it can be read");
    let (code, said) = refused(&["repair", "--data-dir", data]);
    assert!(code == 1 && said.contains("nothing was changed"), "{said}");
    assert!(said.contains("2 entries between"), "{said}");
    assert_eq!(fs::read(&segment).expect("it can be read"), before);

    let said = good(&mut store(&["repair", "--cut", "--data-dir", data]));
    let copy = wal.with_file_name("wal.damaged-1");
    assert!(said.contains(path(&copy)), "{said}");
    let name = segment.file_name().expect("a file has a name");
    assert_eq!(fs::read(copy.join(name)).expect("the copy is there"), before);
    ours.restart();
    let keys = json(&tools.ctl(&ours, &["get", "--prefix", "key", "--keys-only", "-w", "json"]));
    let left = keys["kvs"].as_array().expect("keys are left").len();
    // A checkpoint may have reached the database in time to save the others.
    assert!((9..=12).contains(&left), "{left} of 12 keys are left: {said}");
    assert_eq!(left == 9, said.contains("the log is cut"), "{said}");
    tools.ctl(&ours, &["put", "after", "all"]);
    ours.process.signal(Signal::SIGTERM);
    // As etcd it dies by the signal that stopped it.
    assert_eq!(ours.process.wait().signal(), Some(Signal::SIGTERM as i32));
}
