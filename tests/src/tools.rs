//! Where the binaries are: our own beside the running test, other people's in the tools folder.

use std::path::PathBuf;

/// The folder that cargo puts this build's binaries into.
fn build_dir() -> PathBuf {
    let mut path = std::env::current_exe().expect("the running program has a path");
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path
}

/// One of our own binaries, from the same build as the running test.
///
/// # Panics
/// When it is not built.
pub fn ours(name: &str) -> PathBuf {
    let path = build_dir().join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace --bins`", path.display());
    path
}

/// A client or peer that `tests/tools/fetch` brings, or `None` where it could not.
pub fn theirs(name: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("TESTS_TOOLS").map_or_else(
        || build_dir().parent().expect("a build folder lies in the target folder").join("tools"),
        PathBuf::from,
    );
    let path = dir.join(name);
    path.exists().then_some(path)
}

/// [`theirs`], for a tool that no machine is without.
///
/// # Panics
/// When the tool is missing.
pub fn required(name: &str) -> PathBuf {
    theirs(name)
        .unwrap_or_else(|| panic!("{name} is missing: run `tests/tools/fetch target/tools`"))
}
