//! The repository checks itself: what the architecture says is absent is looked for.

use std::fs;
use std::path::{Path, PathBuf};

/// Every tracked file of the repository, relative to its top.
fn files() -> Vec<PathBuf> {
    let output = std::process::Command::new("git")
        .args(["ls-files"])
        .current_dir(top())
        .output()
        .expect("git lists the files");
    assert!(output.status.success(), "git ls-files failed");
    let text = String::from_utf8(output.stdout).expect("file names are text");
    text.lines().map(PathBuf::from).filter(|path| top().join(path).exists()).collect()
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository")
}

fn read(path: &Path) -> String {
    fs::read_to_string(top().join(path)).unwrap_or_default()
}

fn rust() -> Vec<(PathBuf, String)> {
    let is_rust = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "rs");
    files().into_iter().filter(is_rust).map(|path| (path.clone(), read(&path))).collect()
}

/// Fails with every offence at once.
fn none(rule: &str, offences: Vec<String>) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

/// Lines of `text` outside its test module and its comments that hold one of `words`.
fn uses(path: &Path, text: &str, words: &[&str]) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().expect("split yields at least one part");
    code.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .filter_map(|(n, line)| {
            let word = words.iter().find(|word| line.contains(**word))?;
            Some(format!("{}:{}: {word}", path.display(), n + 1))
        })
        .collect()
}

#[test]
fn every_rust_file_opens_with_what_it_is_about() {
    let silent = rust().into_iter().filter(|(_, text)| !text.starts_with("//!"));
    none(
        "begin the file with a //! comment",
        silent.map(|(p, _)| p.display().to_string()).collect(),
    );
}

#[test]
fn nothing_is_left_unfinished() {
    // Spelled in two halves, so that this file does not offend against itself.
    let marks =
        [("TO", "DO"), ("FIX", "ME"), ("to", "do!("), ("unimple", "mented!("), ("db", "g!(")];
    let marks: Vec<String> = marks.iter().map(|(a, b)| format!("{a}{b}")).collect();
    let mut offences = Vec::new();
    for (path, text) in rust() {
        for (n, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark.as_str())) {
                offences.push(format!("{}:{}", path.display(), n + 1));
            }
        }
    }
    none("finish it, or file an issue", offences);
}

#[test]
fn pure_folders_touch_neither_clock_nor_chance_nor_world() {
    const PURE: [&str; 4] =
        ["store/src/machine/", "store/src/watch/", "store/src/lessor.rs", "orchestrator/src/api/"];
    const WORLD: [&str; 13] = [
        "async fn",
        ".await",
        "tokio::",
        "TcpStream",
        "TcpListener",
        "std::fs",
        "std::thread",
        "Instant::now",
        "SystemTime",
        "rand::",
        "redb::",
        "tonic::",
        "Uuid::new",
    ];
    let mut offences = Vec::new();
    for (path, text) in rust() {
        let name = path.to_string_lossy();
        if PURE.iter().any(|pure| name.starts_with(pure)) {
            offences.extend(uses(&path, &text, &WORLD));
        }
        // What every replica must compute alike may not depend on the order of a hash map. The hub
        // looks things up in one, and hands nothing out in its order.
        if name.starts_with("store/src/machine/") || name.starts_with("orchestrator/src/api/") {
            offences.extend(uses(&path, &text, &["HashMap", "HashSet"]));
        }
    }
    none("a pure folder has no async, clock, randomness, socket, file or hash order", offences);
}

#[test]
fn the_store_takes_time_and_chance_from_one_place() {
    let mut offences = Vec::new();
    for (path, text) in rust() {
        let name = path.to_string_lossy();
        // The time in a log line is for people.
        let exempt = name.ends_with("tests.rs") || name.starts_with("store/src/logging/");
        if name.starts_with("store/src/") && !exempt {
            // tokio's clock can be stopped and moved by a test; the standard library's cannot.
            offences.extend(uses(
                &path,
                &text,
                &["time::{Duration, Instant}", "std::time::Instant", "SystemTime"],
            ));
            if name != "store/src/chance.rs" {
                offences.extend(uses(&path, &text, &["rand::"]));
            }
        }
    }
    none("time is tokio's, chance is chance.rs's", offences);
}

#[test]
fn arrows_between_crates_point_one_way() {
    let mut offences = Vec::new();
    for (path, text) in rust() {
        let name = path.to_string_lossy();
        if name.starts_with("store/") {
            offences.extend(uses(&path, &text, &["orchestrator::", "kubernetes", "Kubernetes"]));
        }
        let composes =
            name.starts_with("orchestrator/src/up") || name.starts_with("orchestrator/tests/");
        if name.starts_with("orchestrator/") && !composes {
            offences.extend(uses(&path, &text, &["store::Node", "store::node", "store::config"]));
        }
    }
    none("the store knows no orchestration; only `up` knows the store", offences);
}

#[test]
fn words_of_the_wire_stay_at_the_edge() {
    let mut offences = Vec::new();
    for (path, text) in rust() {
        let name = path.to_string_lossy();
        if name.starts_with("store/src/") && name != "store/src/rpc/status.rs" {
            offences.extend(uses(&path, &text, &["\"etcdserver: "]));
        }
        // The log's filter names the crate whose chatter it turns down.
        let knows_raft =
            name.starts_with("store/src/raft/") || name.starts_with("store/src/logging/");
        if name.starts_with("store/src/") && !knows_raft {
            offences.extend(uses(&path, &text, &["openraft"]));
        }
        if name.starts_with("orchestrator/src/")
            && !name.starts_with("orchestrator/src/registry/key")
        {
            offences.extend(uses(&path, &text, &["\"/registry/", "\"/orchestrator/index"]));
        }
    }
    none(
        "etcd's texts live in rpc/status.rs, openraft in raft/, registry paths in registry/key.rs",
        offences,
    );
}

#[test]
fn nothing_is_unbounded_or_detached() {
    let mut offences = Vec::new();
    for (path, text) in rust() {
        let name = path.to_string_lossy();
        if !(name.starts_with("store/src/") || name.starts_with("orchestrator/src/")) {
            continue;
        }
        offences.extend(uses(&path, &text, &["unbounded_channel", "mpsc::unbounded"]));
        if !name.ends_with("/tasks.rs") {
            offences.extend(uses(&path, &text, &["tokio::spawn("]));
        }
    }
    none("channels are bounded, and tasks.rs is the only place that spawns", offences);
}

#[test]
fn files_fit_one_sitting() {
    let long = rust().into_iter().filter_map(|(path, text)| {
        let lines = text.split("#[cfg(test)]").next().map_or(0, |code| code.lines().count());
        (lines > 800).then(|| format!("{}: {lines} lines", path.display()))
    });
    none("a file over 800 lines is two", long.collect());
}

#[test]
fn every_member_takes_the_workspace_lints() {
    let offences = ["proto", "store", "orchestrator", "fuzz", "tests"]
        .iter()
        .filter(|member| {
            !read(&Path::new(member).join("Cargo.toml")).contains("[lints]\nworkspace = true")
        })
        .map(ToString::to_string)
        .collect();
    none("inherit [workspace.lints]", offences);
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let mut offences = Vec::new();
    for path in files().into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "md")) {
        for link in read(&path)
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next().map(str::to_string))
        {
            let file = link.split('#').next().expect("split yields at least one part");
            let inside = !file.is_empty() && !file.contains("://");
            if inside
                && !top().join(&path).parent().expect("a file has a folder").join(file).exists()
            {
                offences.push(format!("{}: {link}", path.display()));
            }
        }
    }
    none("the link's target does not exist", offences);
}

#[test]
fn the_top_level_holds_what_it_should_and_no_more() {
    const TOP: [&str; 7] =
        ["Cargo.toml", "Cargo.lock", "README.md", "store", "orchestrator", "proto", "fuzz"];
    let extra = files()
        .into_iter()
        .filter_map(|path| path.iter().next().map(|first| first.to_string_lossy().into_owned()))
        .filter(|first| {
            !first.starts_with('.') && first != "tests" && !TOP.contains(&first.as_str())
        });
    none("the top level is fixed", extra.collect());
}

/// Goal: a table of cases that is true. Every row names tests, and every test it names is there.
#[test]
fn every_case_has_its_tests() {
    let table = read(Path::new("store/docs/cases.md"));
    let rows: Vec<_> = table.lines().filter_map(|line| line.strip_prefix("| ")).skip(1).collect();
    let mut offences = Vec::new();
    for (nth, row) in (1..).zip(&rows) {
        let (case, tests) = row.split_once(" | ").unwrap_or((row, ""));
        let numbered = case.split(' ').next() == Some(&nth.to_string());
        let mut named = 0;
        for group in tests.trim_end_matches(" |").split(" · ") {
            let Some((path, names)) = group.trim_start_matches('`').split_once("` ") else {
                continue;
            };
            let text = read(Path::new(path));
            for name in names.split(", ") {
                named += 1;
                if !text.contains(&format!("fn {name}(")) {
                    offences.push(format!("{path}: there is no {name}, for {case}"));
                }
            }
        }
        if !numbered || (named == 0 && !tests.starts_with("of several members")) {
            offences.push(format!("row {nth}: {row}"));
        }
    }
    none("name the test of every case in store/docs/cases.md", offences);
    assert_eq!(rows.len(), 40);
}
